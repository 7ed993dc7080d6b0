/* Device code: the image that fits a device, loaded, and its functions. */
#include "device.h"

#include <stdio.h>
#include <string.h>

#define CAPABILITY_MAJOR 75 /* numbers of CUdevice_attribute and CUfunction_attribute */
#define CAPABILITY_MINOR 76
#define MAX_DYNAMIC_SHARED_BYTES 8
#define DEFAULT_SHARED_BYTES (48u << 10)

/* How well an image fits a device of that capability, 90 of 9.0; negative: not at all. */
static int fitness(const char *architecture, int capability) {
  int number = 0, end = 0;
  if (sscanf(architecture, "sm_%d%n", &number, &end) == 1) {
    if (architecture[end] == 'a') return number == capability ? 3000 : -1;
    if (number / 10 != capability / 10 || number > capability) return -1;
    return (architecture[end] ? 2000 : 1000) + number;
  }
  if (sscanf(architecture, "compute_%d", &number) == 1 && number <= capability) return number;
  return -1;
}

AthanorStatus ath_image_choose(int handle, int device, const AthanorImage *images, uint32_t count,
                               const char *path, const AthanorImage **chosen) {
  const AthCudaDriver *cuda = ath_cuda_driver();
  int major = 0, minor = 0;
  AthanorStatus status =
      ath_cuda_check(cuda->device_attribute(&major, CAPABILITY_MAJOR, handle),
                     ATHANOR_ERROR_MACHINE, "asking the device for its compute capability");
  if (!status)
    status = ath_cuda_check(cuda->device_attribute(&minor, CAPABILITY_MINOR, handle),
                            ATHANOR_ERROR_MACHINE, "asking the device for its compute capability");
  if (status) return status;
  int best_fitness = -1;
  char names[256] = "";
  for (uint32_t i = 0; i < count; i++) {
    const int fit = fitness(images[i].architecture, 10 * major + minor);
    const size_t at = strlen(names);
    snprintf(names + at, sizeof names - at, "%s%s", i ? ", " : "", images[i].architecture);
    if (fit <= best_fitness) continue;
    *chosen = &images[i];
    best_fitness = fit;
  }
  if (best_fitness >= 0) return ATHANOR_OK;
  return ath_fail(ATHANOR_ERROR_MACHINE,
                  "device %d has compute capability %d.%d, and %s is for %s: compile it with "
                  "target 'cuda -arch=sm_%d%d'",
                  device, major, minor, path, names, major, minor);
}

AthanorStatus ath_image_load(int handle, int device, const AthanorImage *images, uint32_t count,
                             const char *path, CudaHandle *module) {
  const AthanorImage *chosen = NULL;
  AthanorStatus status = ath_image_choose(handle, device, images, count, path, &chosen);
  if (status) return status;
  char what[64];
  snprintf(what, sizeof what, "loading the image for %s", chosen->architecture);
  return ath_cuda_check(ath_cuda_driver()->module_load(module, chosen->data),
                        ATHANOR_ERROR_MACHINE, what);
}

AthanorStatus ath_image_functions(CudaHandle module, const AthanorDeviceFunction *functions,
                                  uint32_t count, CudaHandle *found) {
  const AthCudaDriver *cuda = ath_cuda_driver();
  AthanorStatus status = ATHANOR_OK;
  for (uint32_t i = 0; !status && i < count; i++) {
    const AthanorDeviceFunction *f = &functions[i];
    status = ath_cuda_check(cuda->module_function(&found[i], module, f->name),
                            ATHANOR_ERROR_MACHINE, f->name);
    if (!status && f->shared_bytes > DEFAULT_SHARED_BYTES)
      status = ath_cuda_check(cuda->function_set_attribute(found[i], MAX_DYNAMIC_SHARED_BYTES,
                                                           (int)f->shared_bytes),
                              ATHANOR_ERROR_MACHINE, f->name);
  }
  return status;
}
