/* A session's stream and memory on a device, and the services of its runs. */
#include "device.h"

#include <stdio.h>
#include <stdlib.h>

#define NON_BLOCKING 1 /* a stream that does not wait for the default one */
#define MAX_GRID_X ((int64_t)INT32_MAX)
#define MAX_GRID_YZ 65535

struct AthDeviceBlock {
  AthDeviceBlock *next;
  CudaPointer data;
};

AthanorStatus ath_device_session_create(AthanorModel *model, const AthanorSessionOptions *options,
                                        AthDeviceSession **result) {
  const AthanorDescriptor *d = model->descriptor;
  const size_t inputs = (size_t)d->num_inputs, outputs = (size_t)d->num_outputs;
  AthDeviceModel *loaded;
  CudaHandle popped;
  if (options->stream == CUDA_STREAM_PER_THREAD)
    return ath_fail(ATHANOR_ERROR_ARGUMENT,
                    "stream 2 is another one on each thread, and a session has one: give it a "
                    "stream of your own, or 1, the default one");
  AthanorStatus status = ath_device_model_retain(model, options->device, &loaded);
  if (status) return status;
  AthDeviceSession *device =
      calloc(1, sizeof *device + (inputs + outputs) * sizeof(AthDeviceBuffer) +
                    inputs * sizeof(AthBuffer));
  if (!device) {
    status = ath_fail(ATHANOR_ERROR_MEMORY, "no memory for a session of %s", model->path);
  } else {
    device->driver = ath_cuda_driver();
    device->loaded = loaded;
    device->inputs = (AthDeviceBuffer *)(device + 1);
    device->outputs = device->inputs + inputs;
    device->host_inputs = (AthBuffer *)(device->outputs + outputs);
    device->stream = options->stream;
    device->owns_stream = !options->stream;
    if (device->owns_stream)
      status = ath_cuda_check(device->driver->stream_create(&device->stream, NON_BLOCKING),
                              ATHANOR_ERROR_MACHINE, "making a stream");
    if (!status && options->flags & ATHANOR_SESSION_CUDA_GRAPH)
      status = ath_graph_create(device, model);
    if (status) {
      ath_graph_free(device);
      if (device->owns_stream && device->stream) device->driver->stream_destroy(device->stream);
    }
  }
  ath_cuda_driver()->context_pop(&popped);
  if (status) {
    free(device);
    ath_device_model_release(model, loaded);
    return status;
  }
  *result = device;
  return ATHANOR_OK;
}

void ath_device_session_close(AthanorModel *model, AthDeviceSession *device) {
  const AthCudaDriver *cuda = device->driver;
  const AthanorDescriptor *d = model->descriptor;
  CudaHandle popped;
  cuda->context_push(device->loaded->context);
  cuda->stream_wait(device->stream);
  ath_device_block_free_all(device);
  ath_result_pool_close(device->results);
  ath_graph_free(device);
  ath_timer_free(device);
  for (int32_t i = 0; i < d->num_inputs + d->num_outputs; i++)
    if (device->inputs[i].data) cuda->memory_free(device->inputs[i].data);
  for (int32_t i = 0; i < d->num_inputs; i++) ath_buffer_free(&device->host_inputs[i]);
  if (device->arena.data) cuda->memory_free(device->arena.data);
  if (device->owns_stream) cuda->stream_destroy(device->stream);
  ath_buffer_free(&device->host_arena);
  cuda->context_pop(&popped);
  ath_device_model_release(model, device->loaded);
  free(device);
}

AthanorStatus ath_device_reserve(AthDeviceSession *device, AthDeviceBuffer *buffer,
                                 uint64_t size_bytes, const char *what) {
  if (buffer->data && size_bytes <= buffer->capacity_bytes) return ATHANOR_OK;
  ath_device_open_gate(device);
  if (buffer->data) {
    /* The stream may still be using it. */
    device->driver->stream_wait(device->stream);
    device->driver->memory_free(buffer->data);
  }
  *buffer = (AthDeviceBuffer){0};
  const AthanorStatus status = ath_cuda_alloc(&buffer->data, size_bytes, what);
  if (!status) buffer->capacity_bytes = size_bytes;
  return status;
}

AthanorStatus ath_device_copy(AthDeviceSession *device, void *target, const void *source,
                              uint64_t size_bytes) {
  if (!size_bytes || target == source) return ATHANOR_OK;
  ath_device_open_gate(device);
  return ath_cuda_check(device->driver->copy((CudaPointer)target, (CudaPointer)source, size_bytes,
                                             device->stream),
                        ATHANOR_ERROR_RUN, "copying between host and device");
}

AthanorStatus ath_device_wait(AthDeviceSession *device) {
  ath_device_open_gate(device);
  return ath_cuda_check(device->driver->stream_wait(device->stream), ATHANOR_ERROR_RUN,
                        "running the model on the device");
}

int ath_device_launch(AthDeviceSession *device, const AthanorModel *model, uint32_t function,
                      const int64_t extents[6], uint32_t shared_bytes, void **arguments) {
  const char *name = ath_device_descriptor(model)->functions[function].name;
  for (int axis = 0; axis < 6; axis++) {
    if (extents[axis] <= 0) return 0;
    if (extents[axis] > (axis == 0 ? MAX_GRID_X : MAX_GRID_YZ)) {
      ath_fail(ATHANOR_ERROR_RUN, "kernel %s would need a grid of %lld blocks: the shapes are too "
               "large for a GPU", name, (long long)extents[axis]);
      return -1;
    }
  }
  ath_device_count_launch(device);
  const CudaResult result = device->driver->launch(
      device->loaded->functions[function], (unsigned)extents[0], (unsigned)extents[1],
      (unsigned)extents[2], (unsigned)extents[3], (unsigned)extents[4], (unsigned)extents[5],
      shared_bytes, device->stream, arguments, NULL);
  return ath_cuda_check(result, ATHANOR_ERROR_RUN, name) ? -1 : 0;
}

void *ath_device_block_alloc(AthDeviceSession *device, uint64_t size_bytes) {
  AthDeviceBlock *block = calloc(1, sizeof *block);
  AthDeviceBuffer buffer = {0};
  if (!block || ath_device_reserve(device, &buffer, size_bytes, "an intermediate result")) {
    if (!block) ath_fail(ATHANOR_ERROR_MEMORY, "no memory for an intermediate result");
    free(block);
    return NULL;
  }
  block->data = buffer.data;
  block->next = device->blocks;
  device->blocks = block;
  return (void *)block->data;
}

void ath_device_block_free(AthDeviceSession *device, void *pointer) {
  for (AthDeviceBlock **at = &device->blocks; *at; at = &(*at)->next)
    if ((*at)->data == (CudaPointer)pointer) {
      ath_device_open_gate(device);
      AthDeviceBlock *block = *at;
      *at = block->next;
      device->driver->memory_free(block->data); /* which waits for the device */
      free(block);
      return;
    }
}

void ath_device_block_free_all(AthDeviceSession *device) {
  while (device->blocks) ath_device_block_free(device, (void *)device->blocks->data);
}
