/* A kernel's memory: data that ends at a page nobody may touch, and starts behind one. */
#include "measure.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GUARD_BYTE 0xC3
/* On each side: a wrong stride goes far. Pages that nobody may touch cost no memory. */
#define GUARD_BYTES ((uint64_t)16 << 20)
/* What the runtime maps by itself asks for huge pages from this size on (memory.c). */
#define HUGE_PAGE_BYTES ((uint64_t)2 << 20)

uint64_t measure_size_bytes(const MeasureArgument *argument) {
  return argument->count * ((argument->dtype_bits + 7u) / 8);
}

static uint64_t round_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

/* The gap to the data's end: kernels are promised data aligned to 64 bytes. */
static uint64_t gap(uint64_t size_bytes) { return round_up(size_bytes, 64) - size_bytes; }

bool measure_allocate(MeasureBuffer *buffer, const MeasureArgument *argument) {
  const uint64_t size_bytes = measure_size_bytes(argument);
  const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  /* A model's arena has huge pages; its weights are a mapped file, which has small ones. */
  const bool is_huge = argument->role != MEASURE_CONSTANT && size_bytes >= HUGE_PAGE_BYTES;
  const uint64_t unit = is_huge ? HUGE_PAGE_BYTES : page;
  *buffer = (MeasureBuffer){.size_bytes = size_bytes};
  buffer->pages_bytes = round_up(size_bytes + gap(size_bytes) + 1, unit);
  if (size_bytes && !((size_bytes + gap(size_bytes)) % unit)) buffer->pages_bytes -= unit;
  buffer->mapping_bytes = buffer->pages_bytes + 2 * GUARD_BYTES;
  uint8_t *mapping = mmap(NULL, buffer->mapping_bytes, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return false;
  buffer->mapping = mapping;
  buffer->pages = (uint8_t *)round_up((uintptr_t)mapping + GUARD_BYTES - unit, unit);
  if (mprotect(buffer->pages, buffer->pages_bytes, PROT_READ | PROT_WRITE)) return false;
  if (is_huge) madvise(buffer->pages, buffer->pages_bytes, MADV_HUGEPAGE);
  buffer->data = buffer->pages + buffer->pages_bytes - gap(size_bytes) - size_bytes;
  memset(buffer->pages, GUARD_BYTE, buffer->pages_bytes);
  return true;
}

void measure_release(MeasureBuffer *buffer) {
  if (buffer->mapping) munmap(buffer->mapping, buffer->mapping_bytes);
  *buffer = (MeasureBuffer){0};
}

static bool is_guard(const uint8_t *from, const uint8_t *to) {
  while (from < to)
    if (*from++ != GUARD_BYTE) return false;
  return true;
}

bool measure_is_intact(const MeasureBuffer *buffer) {
  return is_guard(buffer->pages, buffer->data) &&
         is_guard(buffer->data + buffer->size_bytes, buffer->pages + buffer->pages_bytes);
}

void measure_protect(const MeasureBuffer *buffer, bool is_writable) {
  mprotect(buffer->pages, buffer->pages_bytes, is_writable ? PROT_READ | PROT_WRITE : PROT_READ);
}

int measure_side(const MeasureBuffer *buffer, const void *address) {
  const uint8_t *at = address;
  if (at < buffer->mapping || at >= buffer->mapping + buffer->mapping_bytes) return 2;
  if (at < buffer->pages) return -1;
  return at >= buffer->pages + buffer->pages_bytes ? 1 : 0;
}
