/* A model on a device: the image that fits it, its functions, the weights. */
#include "device.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CAPABILITY_MAJOR 75 /* numbers of CUdevice_attribute and CUfunction_attribute */
#define CAPABILITY_MINOR 76
#define MAX_DYNAMIC_SHARED_BYTES 8
#define DEFAULT_SHARED_BYTES (48u << 10)

const AthanorDeviceDescriptor *ath_device_descriptor(const AthanorModel *model) {
  const AthanorDescriptor *d = model->descriptor;
  return d->size_bytes >= offsetof(AthanorDeviceDescriptor, why_not_captured)
             ? (const AthanorDeviceDescriptor *)(const void *)d
             : NULL;
}

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

static AthanorStatus load_image(const AthanorModel *model, AthDeviceModel *loaded) {
  const AthanorDeviceDescriptor *d = ath_device_descriptor(model);
  const AthCudaDriver *cuda = ath_cuda_driver();
  int major = 0, minor = 0;
  AthanorStatus status = ath_cuda_check(
      cuda->device_attribute(&major, CAPABILITY_MAJOR, loaded->handle), ATHANOR_ERROR_MACHINE,
      "asking the device for its compute capability");
  if (!status)
    status = ath_cuda_check(cuda->device_attribute(&minor, CAPABILITY_MINOR, loaded->handle),
                            ATHANOR_ERROR_MACHINE, "asking the device for its compute capability");
  if (status) return status;
  const AthanorImage *best = NULL;
  int best_fitness = -1;
  char names[256] = "";
  for (uint32_t i = 0; i < d->num_images; i++) {
    const int fit = fitness(d->images[i].architecture, 10 * major + minor);
    const size_t at = strlen(names);
    snprintf(names + at, sizeof names - at, "%s%s", i ? ", " : "", d->images[i].architecture);
    if (fit <= best_fitness) continue;
    best = &d->images[i];
    best_fitness = fit;
  }
  if (!best)
    return ath_fail(ATHANOR_ERROR_MACHINE,
                    "device %d has compute capability %d.%d, and %s is for %s: compile it with "
                    "target 'cuda -arch=sm_%d%d'",
                    loaded->device, major, minor, model->path, names, major, minor);
  char what[64];
  snprintf(what, sizeof what, "loading the image for %s", best->architecture);
  return ath_cuda_check(cuda->module_load(&loaded->module, best->data), ATHANOR_ERROR_MACHINE,
                        what);
}

static AthanorStatus find_functions(const AthanorModel *model, AthDeviceModel *loaded) {
  const AthanorDeviceDescriptor *d = ath_device_descriptor(model);
  const AthCudaDriver *cuda = ath_cuda_driver();
  AthanorStatus status = ATHANOR_OK;
  loaded->functions = calloc(d->num_functions + 1, sizeof *loaded->functions);
  if (!loaded->functions)
    return ath_fail(ATHANOR_ERROR_MEMORY, "no memory for the functions of %s", model->path);
  for (uint32_t i = 0; !status && i < d->num_functions; i++) {
    const AthanorDeviceFunction *f = &d->functions[i];
    status = ath_cuda_check(
        cuda->module_function(&loaded->functions[i], loaded->module, f->name),
        ATHANOR_ERROR_MACHINE, f->name);
    if (!status && f->shared_bytes > DEFAULT_SHARED_BYTES)
      status = ath_cuda_check(cuda->function_set_attribute(loaded->functions[i],
                                                           MAX_DYNAMIC_SHARED_BYTES,
                                                           (int)f->shared_bytes),
                              ATHANOR_ERROR_MACHINE, f->name);
  }
  return status;
}

static AthanorStatus upload_weights(const AthanorModel *model, AthDeviceModel *loaded) {
  const AthCudaDriver *cuda = ath_cuda_driver();
  const uint64_t size_bytes = model->footer.weights_bytes;
  if (!size_bytes) return ATHANOR_OK;
  AthanorStatus status = ath_cuda_alloc(&loaded->weights, size_bytes, "the weights");
  if (!status)
    status = ath_cuda_check(
        cuda->copy(loaded->weights, (CudaPointer)model->weights, size_bytes, NULL),
        ATHANOR_ERROR_RUN, "copying the weights to the device");
  if (!status)
    status = ath_cuda_check(cuda->stream_wait(NULL), ATHANOR_ERROR_RUN,
                            "copying the weights to the device");
  return status;
}

/* What is there of it goes; its context is current. */
static void unload(AthDeviceModel *loaded) {
  const AthCudaDriver *cuda = ath_cuda_driver();
  CudaHandle popped;
  if (loaded->weights) cuda->memory_free(loaded->weights);
  if (loaded->module) cuda->module_unload(loaded->module);
  cuda->context_pop(&popped);
  cuda->context_release(loaded->handle);
  free(loaded->functions);
  free(loaded);
}

static AthanorStatus load(AthanorModel *model, int device, AthDeviceModel **result) {
  const AthCudaDriver *cuda = ath_cuda_driver();
  AthDeviceModel *loaded = calloc(1, sizeof *loaded);
  if (!loaded) return ath_fail(ATHANOR_ERROR_MEMORY, "no memory for %s", model->path);
  loaded->device = device;
  AthanorStatus status = ath_cuda_check(cuda->device_get(&loaded->handle, device),
                                        ATHANOR_ERROR_MACHINE, "starting the device");
  if (!status)
    status = ath_cuda_check(cuda->context_retain(&loaded->context, loaded->handle),
                            ATHANOR_ERROR_MACHINE, "starting the device");
  if (status) {
    free(loaded);
    return status;
  }
  status = ath_cuda_check(cuda->context_push(loaded->context), ATHANOR_ERROR_MACHINE,
                          "starting the device");
  if (status) {
    cuda->context_release(loaded->handle);
    free(loaded);
    return status;
  }
  status = load_image(model, loaded);
  if (!status) status = find_functions(model, loaded);
  if (!status) status = upload_weights(model, loaded);
  if (status) {
    char reason[ATH_ERROR_BYTES];
    snprintf(reason, sizeof reason, "%s", athanor_last_error());
    unload(loaded);
    ath_set_error(reason);
    return status;
  }
  *result = loaded;
  return ATHANOR_OK;
}

AthanorStatus ath_device_model_retain(AthanorModel *model, int device, AthDeviceModel **result) {
  const AthCudaDriver *cuda = ath_cuda_driver();
  int count = 0;
  if (!cuda) return ATHANOR_ERROR_MACHINE;
  AthanorStatus status = ath_cuda_check(cuda->device_count(&count), ATHANOR_ERROR_MACHINE,
                                        "counting the devices");
  if (status) return status;
  if (device < 0 || device >= count)
    return ath_fail(ATHANOR_ERROR_ARGUMENT, "device %d asked for, there are %d", device, count);
  pthread_mutex_lock(&model->lock);
  AthDeviceModel *loaded = model->devices;
  while (loaded && loaded->device != device) loaded = loaded->next;
  if (loaded) {
    status = ath_cuda_check(cuda->context_push(loaded->context), ATHANOR_ERROR_MACHINE,
                            "starting the device");
    if (!status) loaded->references++;
  } else {
    status = load(model, device, &loaded);
    if (!status) {
      loaded->references = 1;
      loaded->next = model->devices;
      model->devices = loaded;
    }
  }
  pthread_mutex_unlock(&model->lock);
  if (!status) *result = loaded;
  return status;
}

void ath_device_model_release(AthanorModel *model, AthDeviceModel *loaded) {
  pthread_mutex_lock(&model->lock);
  if (--loaded->references == 0) {
    AthDeviceModel **at = &model->devices;
    while (*at != loaded) at = &(*at)->next;
    *at = loaded->next;
    ath_cuda_driver()->context_push(loaded->context);
    unload(loaded);
  }
  pthread_mutex_unlock(&model->lock);
}
