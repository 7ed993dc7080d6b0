/* Opening NVIDIA's driver. A process that runs no model for a GPU never looks for it. */
#include "cuda_driver.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#define LIBRARY "libcuda.so.1"
#define OUT_OF_MEMORY 2

static AthCudaDriver driver;
static bool is_ready;
static char reason[512]; /* why it is not */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static bool resolve(void *library) {
  bool complete = true;
#define X(name, symbol, parameters)                                                                \
  *(void **)&driver.name = dlsym(library, #symbol);                                                \
  if (!driver.name && complete) {                                                                  \
    snprintf(reason, sizeof reason, "the NVIDIA driver's %s is too old: it has no %s", LIBRARY,    \
             #symbol);                                                                             \
    complete = false;                                                                              \
  }
  ATH_CUDA_FUNCTIONS(X)
#undef X
  return complete;
}

static void open_driver(void) {
  void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    snprintf(reason, sizeof reason, "the NVIDIA driver is missing: %s", dlerror());
    return;
  }
  if (!resolve(library)) return;
  const CudaResult result = driver.init(0);
  if (!result) {
    is_ready = true;
    return;
  }
  const char *name = NULL, *text = NULL;
  driver.error_name(result, &name);
  driver.error_string(result, &text);
  snprintf(reason, sizeof reason, "the NVIDIA driver does not start: %s (%s)",
           name ? name : "an unknown error", text ? text : "");
}

const AthCudaDriver *ath_cuda_driver(void) {
  pthread_once(&once, open_driver);
  if (is_ready) return &driver;
  ath_set_error(reason);
  return NULL;
}

/* Errors after which the device's context takes no more work: every later call returns them, too. */
static bool is_final(CudaResult result) {
  switch (result) {
    case 214: /* ECC_UNCORRECTABLE */
    case 220: /* NVLINK_UNCORRECTABLE */
    case 700: /* ILLEGAL_ADDRESS */
    case 702: /* LAUNCH_TIMEOUT */
    case 709: /* CONTEXT_IS_DESTROYED */
    case 710: /* ASSERT */
    case 714: /* HARDWARE_STACK_ERROR */
    case 715: /* ILLEGAL_INSTRUCTION */
    case 716: /* MISALIGNED_ADDRESS */
    case 717: /* INVALID_ADDRESS_SPACE */
    case 718: /* INVALID_PC */
    case 719: /* LAUNCH_FAILED */
      return true;
    default:
      return false;
  }
}

/* The first such error of the process. */
static pthread_mutex_t lost_lock = PTHREAD_MUTEX_INITIALIZER;
static char lost_by[320];

/* The sentence about it: how the device was lost, or that it is lost now. */
static void tell_loss(char *text, size_t size, const char *what, const char *name) {
  pthread_mutex_lock(&lost_lock);
  if (*lost_by) {
    snprintf(text, size, "; this process lost the device by an earlier error (%s): start it again",
             lost_by);
  } else {
    snprintf(lost_by, sizeof lost_by, "%s failed: %s", what, name);
    snprintf(text, size, "; this process can't use the device any more: start it again");
  }
  pthread_mutex_unlock(&lost_lock);
}

AthanorStatus ath_cuda_check(CudaResult result, AthanorStatus status, const char *what) {
  if (!result) return ATHANOR_OK;
  const char *name = NULL, *text = NULL;
  char loss[512] = "";
  driver.error_name(result, &name);
  driver.error_string(result, &text);
  if (!name) name = "an unknown CUDA error";
  if (is_final(result)) tell_loss(loss, sizeof loss, what, name);
  return ath_fail(result == OUT_OF_MEMORY ? ATHANOR_ERROR_MEMORY : status, "%s failed: %s (%s)%s",
                  what, name, text ? text : "", loss);
}

AthanorStatus ath_cuda_alloc(CudaPointer *pointer, uint64_t size_bytes, const char *what) {
  const CudaResult result = driver.memory_alloc(pointer, size_bytes ? size_bytes : 1);
  char text[320];
  size_t free_bytes = 0, all_bytes = 0;
  if (!result) return ATHANOR_OK;
  int end = snprintf(text, sizeof text, "taking %llu bytes of device memory for %s",
                     (unsigned long long)size_bytes, what);
  if (result == OUT_OF_MEMORY && end < (int)sizeof text &&
      !driver.memory_info(&free_bytes, &all_bytes))
    snprintf(text + end, sizeof text - (size_t)end, ", of which %zu of %zu are free,", free_bytes,
             all_bytes);
  return ath_cuda_check(result, ATHANOR_ERROR_MEMORY, text);
}
