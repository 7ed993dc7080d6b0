/* A run's tensors, between where the caller has them and where the model on a device wants them. */
#include "session.h"

#include <string.h>

static bool is_on_device(const DLTensor *tensor) { return tensor->device.device_type == kDLCUDA; }

AthanorStatus ath_device_stage_input(AthanorSession *session, int32_t index, const DLTensor *tensor,
                                     void *data) {
  AthDeviceSession *device = session->device;
  const AthanorDeviceDescriptor *d = ath_device_descriptor(session->model);
  const AthanorTensorSpec *spec = athanor_input(session->model, index);
  const bool on_host = d->inputs_on_host[index];
  uint64_t size_bytes = 0;
  ath_size_bytes(tensor->shape, tensor->ndim, ath_itemsize(spec->dtype), &size_bytes);
  session->input_data[index] = data;
  if (on_host ? !is_on_device(tensor) : is_on_device(tensor) && !device->graph) return ATHANOR_OK;
  if (on_host) {
    AthBuffer *buffer = &device->host_inputs[index];
    if (!ath_buffer_reserve(buffer, size_bytes))
      return ath_fail(ATHANOR_ERROR_MEMORY, "no memory for input '%s'", spec->name);
    session->input_data[index] = buffer->data;
  } else {
    AthanorStatus status =
        ath_device_reserve(device, &device->inputs[index], size_bytes, spec->name);
    if (status) return status;
    session->input_data[index] = (void *)device->inputs[index].data;
  }
  AthanorStatus status = ath_device_copy(device, session->input_data[index], data, size_bytes);
  return status || !on_host ? status : ath_device_wait(device);
}

/* Where the model writes an output: on its side, in the session's own memory. */
static AthanorStatus own_output(AthanorSession *session, int32_t index, uint64_t size_bytes) {
  AthDeviceSession *device = session->device;
  const AthanorTensorSpec *spec = athanor_output(session->model, index);
  if (!ath_device_descriptor(session->model)->outputs_on_host[index]) {
    AthanorStatus status =
        ath_device_reserve(device, &device->outputs[index], size_bytes, spec->name);
    session->output_data[index] = (void *)device->outputs[index].data;
    return status;
  }
  if (!ath_buffer_reserve(&session->outputs[index], size_bytes))
    return ath_fail(ATHANOR_ERROR_MEMORY, "no memory for the %llu bytes of output '%s'",
                    (unsigned long long)size_bytes, spec->name);
  session->output_data[index] = session->outputs[index].data;
  return ATHANOR_OK;
}

AthanorStatus ath_device_place_output(AthanorSession *session, int32_t index,
                                      const DLTensor *tensor, void *data, uint64_t size_bytes) {
  const bool on_host = ath_device_descriptor(session->model)->outputs_on_host[index];
  if (data && is_on_device(tensor) != on_host && !session->device->graph) {
    session->output_data[index] = data;
    return ATHANOR_OK;
  }
  return own_output(session, index, size_bytes);
}

void *ath_device_late_output(AthanorSession *session, int32_t index, uint64_t size_bytes) {
  return own_output(session, index, size_bytes) ? NULL : session->output_data[index];
}

AthanorStatus ath_device_reserve_arenas(AthanorSession *session) {
  AthDeviceSession *device = session->device;
  if (!ath_buffer_reserve(&device->host_arena, session->arena_bytes[1]))
    return ath_fail(ATHANOR_ERROR_MEMORY, "no memory for the %llu bytes of intermediate results",
                    (unsigned long long)session->arena_bytes[1]);
  return ath_device_reserve(device, &device->arena, session->arena_bytes[0],
                            "intermediate results");
}

AthanorStatus ath_device_reserve_places(AthanorSession *session) {
  AthDeviceSession *device = session->device;
  const AthanorDescriptor *d = session->model->descriptor;
  AthanorStatus status = ATHANOR_OK;
  uint64_t size_bytes = 0;
  for (int32_t i = 0; !status && i < d->num_inputs; i++) {
    const AthanorTensorSpec *spec = athanor_input(session->model, i);
    if (ath_size_bytes(spec->shape, spec->ndim, ath_itemsize(spec->dtype), &size_bytes))
      status = ath_device_reserve(device, &device->inputs[i], size_bytes, spec->name);
  }
  for (int32_t i = 0; !status && i < d->num_outputs; i++) {
    const AthanorTensorSpec *spec = athanor_output(session->model, i);
    if (ath_size_bytes(ath_output_shape(session, i), spec->ndim, ath_itemsize(spec->dtype),
                       &size_bytes))
      status = ath_device_reserve(device, &device->outputs[i], size_bytes, spec->name);
  }
  return status;
}

/* Brings one output to the caller; *waits: whether the host reads it. */
static AthanorStatus hand_out(AthanorSession *session, int32_t index, DLTensor *tensor,
                              bool *waits) {
  AthDeviceSession *device = session->device;
  const AthanorTensorSpec *spec = athanor_output(session->model, index);
  const bool made_on_host = ath_device_descriptor(session->model)->outputs_on_host[index];
  const bool wanted_on_host = !is_on_device(tensor);
  void *made = session->output_data[index], *target = made;
  int64_t *shape = ath_output_shape(session, index);
  uint64_t size_bytes = 0;
  if (!made)
    return ath_fail(ATHANOR_ERROR_RUN, "running %s did not make output '%s'", session->model->path,
                    spec->name);
  ath_size_bytes(shape, spec->ndim, ath_itemsize(spec->dtype), &size_bytes);
  if (tensor->data) {
    target = (uint8_t *)tensor->data + tensor->byte_offset;
  } else if (made_on_host != wanted_on_host && wanted_on_host) {
    if (!ath_buffer_reserve(&session->outputs[index], size_bytes))
      return ath_fail(ATHANOR_ERROR_MEMORY, "no memory for the %llu bytes of output '%s'",
                      (unsigned long long)size_bytes, spec->name);
    target = session->outputs[index].data;
  } else if (made_on_host != wanted_on_host) {
    AthanorStatus status =
        ath_device_reserve(device, &device->outputs[index], size_bytes, spec->name);
    if (status) return status;
    target = (void *)device->outputs[index].data;
  }
  *waits |= wanted_on_host || made_on_host;
  AthanorStatus status = ATHANOR_OK;
  if (made_on_host && wanted_on_host && target != made)
    memcpy(target, made, size_bytes);
  else
    status = ath_device_copy(device, target, made, size_bytes);
  if (tensor->data || status) return status;
  *tensor = (DLTensor){
      .data = target,
      .device = {wanted_on_host ? kDLCPU : kDLCUDA, wanted_on_host ? 0 : device->loaded->device},
      .ndim = spec->ndim,
      .dtype = spec->dtype,
      .shape = shape,
  };
  return ATHANOR_OK;
}

AthanorStatus ath_device_finish(AthanorSession *session, const DLTensor *inputs,
                                DLTensor *outputs) {
  const AthanorDescriptor *d = session->model->descriptor;
  bool waits = session->device->owns_stream;
  for (int32_t i = 0; i < d->num_inputs; i++) waits |= !is_on_device(&inputs[i]);
  AthanorStatus status = ATHANOR_OK;
  for (int32_t i = 0; !status && i < d->num_outputs; i++)
    status = hand_out(session, i, &outputs[i], &waits);
  session->device->is_queued = !waits;
  return status || !waits ? status : ath_device_wait(session->device);
}

int ath_session_launch(AthanorSession *session, uint32_t function, const int64_t extents[6],
                       uint32_t shared_bytes, void **arguments) {
  return ath_device_launch(session->device, session->model, function, extents, shared_bytes,
                           arguments);
}

int ath_session_copy(AthanorSession *session, void *target, const void *source,
                     uint64_t size_bytes, int to_host) {
  if (ath_device_copy(session->device, target, source, size_bytes)) return -1;
  return to_host && ath_device_wait(session->device) ? -1 : 0;
}

void *ath_session_device_alloc(AthanorSession *session, uint64_t size_bytes) {
  return ath_device_block_alloc(session->device, size_bytes);
}

int ath_session_mark(AthanorSession *session, AthanorEvents *events, const AthanorEvent *ended) {
  return ath_timer_mark(session->device, events, ended) ? -1 : 0;
}

void ath_session_device_free(AthanorSession *session, void *pointer) {
  ath_device_block_free(session->device, pointer);
}
