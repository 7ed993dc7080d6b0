/* The state of the caches before a call, as a run of the model leaves it.
 *
 * Between two calls of a kernel a model touches `evict_bytes` of other memory: the weights and
 * intermediate results of all other layers. So do we, by reading as much of a block of our own. The
 * kernel's own weights are then as far from the core as in the model: gone where the other layers
 * outgrow the caches, and still there in a small model. Results lie in an arena that every few
 * layers use again, and inputs are what the layer before has just written; these are touched last,
 * by all threads, results before inputs. With evict_bytes 0 a kernel runs alone, again and again.
 *
 * Reading is portable and keeps the levels apart (what leaves L2 may stay in L3); instructions that
 * flush lines would put everything into memory. It is reading because written lines would still be
 * on their way back to memory while the kernel runs.
 *
 * We read CROWDING times as much as the model touches, for the last level is shared with what else
 * runs there, on a rented machine with other tenants. SqueezeNet and MobileNetV2, which touch 14 MB,
 * on 2 cores of an EPYC with 32 MB that others share: with one thread the kernels of 1% and more of
 * a run took in the program 0.99 and 0.98 of their time in the model with factor 4, and 0.90 with
 * factor 1, as if nothing had left the caches (0.91 and 0.92). */
#include "measure.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LINE_BYTES 64
#define CROWDING 4

static uint8_t *other_memory;
static uint64_t other_bytes;

static uint64_t largest_cache(void) {
  uint64_t largest = 0;
  for (int index = 0; index < 8; index++) {
    char path[80];
    unsigned long long size = 0;
    char unit = 0;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", index);
    FILE *file = fopen(path, "re");
    if (!file) continue;
    if (fscanf(file, "%llu%c", &size, &unit) >= 1) {
      if (unit == 'K') size <<= 10;
      if (unit == 'M') size <<= 20;
      if (size > largest) largest = size;
    }
    fclose(file);
  }
  return largest ? largest : (uint64_t)32 << 20;
}

bool measure_make_other_memory(uint64_t evict_bytes) {
  /* Twice the largest cache replaces all of it, whatever it chooses to keep. */
  const uint64_t most = 2 * largest_cache();
  const uint64_t size_bytes = evict_bytes < most / CROWDING ? CROWDING * evict_bytes : most;
  if (!size_bytes) return true;
  /* Shared, so that a fork does not copy it. */
  uint8_t *made =
      mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (made == MAP_FAILED) return false;
  memset(made, 1, size_bytes); /* pages that were never written are all the same page */
  other_memory = made;
  other_bytes = size_bytes;
  return true;
}

typedef struct {
  uint8_t *data;
  uint64_t size_bytes;
  bool is_written;
} Range;

static int touch_part(int task_id, AthanorGroup *group, void *closure) {
  const Range *range = closure;
  const uint64_t lines = (range->size_bytes + LINE_BYTES - 1) / LINE_BYTES;
  const uint64_t part = (lines + (uint64_t)group->num_task - 1) / (uint64_t)group->num_task;
  uint64_t end = ((uint64_t)task_id + 1) * part * LINE_BYTES;
  if (end > range->size_bytes) end = range->size_bytes;
  for (uint64_t at = (uint64_t)task_id * part * LINE_BYTES; at < end; at += LINE_BYTES) {
    volatile uint8_t *line = range->data + at;
    const uint8_t value = *line;
    if (range->is_written) *line = value;
  }
  return 0;
}

static void touch(uint8_t *data, uint64_t size_bytes, bool is_written) {
  Range range = {data, size_bytes, is_written};
  ath_parallel_launch(touch_part, &range, 0);
}

void measure_set_caches(const MeasureCandidate *candidate, const MeasureBuffer *buffers) {
  if (!candidate->evict_bytes) return;
  const bool is_less = candidate->evict_bytes < other_bytes / CROWDING;
  touch(other_memory, is_less ? CROWDING * candidate->evict_bytes : other_bytes, false);
  for (int pass = 0; pass < 2; pass++)
    for (int32_t i = 0; i < candidate->num_arguments; i++)
      if (candidate->arguments[i].role == (pass ? MEASURE_INPUT : MEASURE_OUTPUT))
        touch(buffers[i].data, buffers[i].size_bytes, true);
}
