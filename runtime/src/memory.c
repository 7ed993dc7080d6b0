/* Growable blocks for arenas and outputs. */
#include "internal.h"

#include <stdlib.h>
#include <sys/mman.h>

/* From this size on a block is mapped by itself and asks for huge pages: an arena is walked again
 * and again, and with 4 KiB pages it does not fit the TLB. */
#define HUGE_PAGE_BYTES ((uint64_t)2 << 20)

bool ath_buffer_reserve(AthBuffer *buffer, uint64_t size_bytes) {
  if (size_bytes <= buffer->capacity_bytes && buffer->data) return true;
  ath_buffer_free(buffer);
  if (size_bytes > SIZE_MAX / 2) return false;
  const bool mapped = size_bytes >= HUGE_PAGE_BYTES;
  const size_t unit = mapped ? HUGE_PAGE_BYTES : 64;
  const size_t capacity = ((size_bytes ? size_bytes : 1) + unit - 1) / unit * unit;
  if (!mapped) {
    buffer->data = aligned_alloc(64, capacity);
  } else {
    /* One unit more, so that an aligned block lies inside; the rest is given back. */
    uint8_t *start =
        mmap(NULL, capacity + unit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return false;
    const size_t before = (unit - (uintptr_t)start % unit) % unit;
    if (before) munmap(start, before);
    munmap(start + before + capacity, unit - before);
    buffer->data = start + before;
    madvise(buffer->data, capacity, MADV_HUGEPAGE);
  }
  if (!buffer->data) return false;
  buffer->mapped = mapped;
  buffer->capacity_bytes = capacity;
  return true;
}

void ath_buffer_free(AthBuffer *buffer) {
  if (buffer->mapped)
    munmap(buffer->data, buffer->capacity_bytes);
  else
    free(buffer->data);
  *buffer = (AthBuffer){0};
}
