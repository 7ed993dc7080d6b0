/* A model on a device: its code, its weights. */
#include "device.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const AthanorDeviceDescriptor *ath_device_descriptor(const AthanorModel *model) {
  const AthanorDescriptor *d = model->descriptor;
  return d->size_bytes >= offsetof(AthanorDeviceDescriptor, why_not_captured)
             ? (const AthanorDeviceDescriptor *)(const void *)d
             : NULL;
}

static AthanorStatus load_code(const AthanorModel *model, AthDeviceModel *loaded) {
  const AthanorDeviceDescriptor *d = ath_device_descriptor(model);
  AthanorStatus status = ath_image_load(loaded->handle, loaded->device, d->images, d->num_images,
                                        model->path, &loaded->module);
  if (status) return status;
  loaded->functions = calloc(d->num_functions + 1, sizeof *loaded->functions);
  if (!loaded->functions)
    return ath_fail(ATHANOR_ERROR_MEMORY, "no memory for the functions of %s", model->path);
  return ath_image_functions(loaded->module, d->functions, d->num_functions, loaded->functions);
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
  status = load_code(model, loaded);
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
