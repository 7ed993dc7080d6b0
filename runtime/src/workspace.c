/* Scratch memory of kernels: a stack of blocks for each thread, kept between calls.
 *
 * A kernel frees in reverse order what it has allocated, so the block at depth d serves all
 * allocations at that depth; it grows to the largest and goes when the thread ends. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
  AthBuffer *blocks;
  size_t depth, capacity;
} Stack;

static _Thread_local Stack *stack;
static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool have_key;

static void destroy(void *argument) {
  Stack *ended = argument;
  for (size_t i = 0; i < ended->capacity; i++) ath_buffer_free(&ended->blocks[i]);
  free(ended->blocks);
  free(ended);
  stack = NULL;
}

static void make_key(void) { have_key = pthread_key_create(&key, destroy) == 0; }

static bool deepen(void) {
  if (!stack) {
    pthread_once(&once, make_key);
    Stack *fresh = have_key ? calloc(1, sizeof *fresh) : NULL;
    if (!fresh) return false;
    if (pthread_setspecific(key, fresh)) {
      free(fresh);
      return false;
    }
    stack = fresh;
  }
  if (stack->depth < stack->capacity) return true;
  const size_t capacity = stack->capacity ? 2 * stack->capacity : 8;
  AthBuffer *blocks = realloc(stack->blocks, capacity * sizeof *blocks);
  if (!blocks) return false;
  memset(blocks + stack->capacity, 0, (capacity - stack->capacity) * sizeof *blocks);
  stack->blocks = blocks;
  stack->capacity = capacity;
  return true;
}

void *ath_workspace_alloc(uint64_t size_bytes) {
  if (deepen() && ath_buffer_reserve(&stack->blocks[stack->depth], size_bytes))
    return stack->blocks[stack->depth++].data;
  ath_fail(ATHANOR_ERROR_MEMORY, "no memory for %llu bytes of a kernel's scratch space",
           (unsigned long long)size_bytes);
  return NULL;
}

int ath_workspace_free(void *pointer) {
  if (!stack || !stack->depth || stack->blocks[stack->depth - 1].data != pointer) {
    ath_set_error("a kernel freed scratch memory out of order");
    return -1;
  }
  stack->depth--;
  return 0;
}

size_t ath_workspace_depth(void) { return stack ? stack->depth : 0; }

void ath_workspace_reset(size_t depth) {
  if (stack) stack->depth = depth;
}
