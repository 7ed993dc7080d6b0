/* Memory for values whose size only the run tells: blocks that last until they are freed or until
 * the run ends, whatever way it ends. */
#include "internal.h"

#include <stdlib.h>

struct AthBlock {
  AthBlock *previous, *next;
  uint8_t unused[48]; /* the data behind it is 64-byte aligned */
};

void *ath_block_alloc(AthBlock **blocks, uint64_t size_bytes) {
  AthBlock *block = NULL;
  if (size_bytes <= INT64_MAX - sizeof *block)
    block = aligned_alloc(64, sizeof *block + ((size_t)size_bytes + 63) / 64 * 64);
  if (!block) {
    ath_fail(ATHANOR_ERROR_MEMORY, "no memory for %llu bytes of an intermediate result",
             (unsigned long long)size_bytes);
    return NULL;
  }
  block->previous = NULL;
  block->next = *blocks;
  if (block->next) block->next->previous = block;
  return (*blocks = block) + 1;
}

void ath_block_free(AthBlock **blocks, void *pointer) {
  if (!pointer) return;
  AthBlock *block = (AthBlock *)pointer - 1;
  if (block->next) block->next->previous = block->previous;
  *(block->previous ? &block->previous->next : blocks) = block->next;
  free(block);
}

void ath_block_free_all(AthBlock **blocks) {
  while (*blocks) ath_block_free(blocks, *blocks + 1);
}
