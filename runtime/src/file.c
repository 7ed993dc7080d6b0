/* Files as read-only memory. */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

AthanorStatus ath_file_map(const char *path, AthFile *file) {
  const int descriptor = open(path, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0)
    return ath_fail(ATHANOR_ERROR_FILE, "can't open %s: %s", path, strerror(errno));
  struct stat status;
  AthanorStatus result = ATHANOR_OK;
  if (fstat(descriptor, &status)) {
    result = ath_fail(ATHANOR_ERROR_FILE, "can't read %s: %s", path, strerror(errno));
  } else if (!S_ISREG(status.st_mode)) {
    result = ath_fail(ATHANOR_ERROR_FILE, "%s is no regular file", path);
  } else {
    *file =
        (AthFile){NULL, (size_t)status.st_size, (uint64_t)status.st_dev, (uint64_t)status.st_ino};
    /* mmap refuses a length of zero; an empty file has no data. Private and read-only: the pages
     * are those of the page cache, shared by all processes. */
    void *data = file->size_bytes
                     ? mmap(NULL, file->size_bytes, PROT_READ, MAP_PRIVATE, descriptor, 0)
                     : NULL;
    if (data == MAP_FAILED)
      result = ath_fail(ATHANOR_ERROR_FILE, "can't map %s: %s", path, strerror(errno));
    else
      file->data = data;
  }
  close(descriptor);
  return result;
}

void ath_file_unmap(AthFile *file) {
  if (file->data) munmap((void *)(uintptr_t)file->data, file->size_bytes);
  *file = (AthFile){0};
}
