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

AthanorStatus ath_cuda_check(CudaResult result, AthanorStatus status, const char *what) {
  if (!result) return ATHANOR_OK;
  const char *name = NULL, *text = NULL;
  driver.error_name(result, &name);
  driver.error_string(result, &text);
  return ath_fail(result == OUT_OF_MEMORY ? ATHANOR_ERROR_MEMORY : status,
                  "%s failed: %s (%s)", what, name ? name : "an unknown CUDA error",
                  text ? text : "");
}
