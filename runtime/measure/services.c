/* The pointers that TVM's code generator leaves to be resolved, as a model's host program has them,
 * and scratch memory between guard pages for the run that is checked. */
#include "measure.h"

#define MAX_SCRATCH 64

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static MeasureBuffer scratch[MAX_SCRATCH]; /* of all threads; a free one has no data */
static bool guarded, damaged;

static void *guarded_alloc(uint64_t size_bytes) {
  const MeasureArgument bytes = {.dtype_bits = 8, .role = MEASURE_CONSTANT, .count = size_bytes};
  void *data = NULL;
  pthread_mutex_lock(&lock);
  for (int i = 0; i < MAX_SCRATCH && !data; i++)
    if (!scratch[i].data && measure_allocate(&scratch[i], &bytes)) data = scratch[i].data;
  pthread_mutex_unlock(&lock);
  if (!data) ath_set_error("no memory for the kernel's scratch space");
  return data;
}

static int guarded_free(void *pointer) {
  int result = -1;
  pthread_mutex_lock(&lock);
  for (int i = 0; i < MAX_SCRATCH && result; i++)
    if (pointer && scratch[i].data == pointer) {
      damaged = damaged || !measure_is_intact(&scratch[i]);
      measure_release(&scratch[i]);
      result = 0;
    }
  pthread_mutex_unlock(&lock);
  return result;
}

static void *workspace_alloc(int type, int id, uint64_t size_bytes, int code, int bits) {
  (void)type, (void)id, (void)code, (void)bits;
  return guarded ? guarded_alloc(size_bytes) : ath_workspace_alloc(size_bytes);
}

static int workspace_free(int type, int id, void *pointer) {
  (void)type, (void)id;
  return guarded ? guarded_free(pointer) : ath_workspace_free(pointer);
}

void *__TVMBackendParallelLaunch = (void *)ath_parallel_launch;
void *__TVMBackendAllocWorkspace = (void *)workspace_alloc;
void *__TVMBackendFreeWorkspace = (void *)workspace_free;

void measure_guard_scratch(bool is_guarded) { guarded = is_guarded; }

int measure_scratch_side(const void *address) {
  int side = 2;
  for (int i = 0; i < MAX_SCRATCH && side == 2; i++)
    if (scratch[i].data) side = measure_side(&scratch[i], address);
  return side;
}

bool measure_scratch_is_intact(void) { return !damaged; }
