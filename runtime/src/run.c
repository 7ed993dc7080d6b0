/* Runs of a session: what the tensors are checked for, the call, and the results. */
#include "session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const int64_t *planned_shape(const AthanorSession *session, int32_t index) {
  return session->planned_shapes +
         (size_t)index * (size_t)session->model->descriptor->max_output_ndim;
}

int64_t *ath_output_shape(const AthanorSession *session, int32_t index) {
  return session->shapes + (size_t)index * (size_t)session->model->descriptor->max_output_ndim;
}

/* Whether a size of the output is told only by the run. */
static bool is_data_dependent(const AthanorSession *session, int32_t index) {
  const int64_t *shape = planned_shape(session, index);
  for (int32_t axis = 0; axis < athanor_output(session->model, index)->ndim; axis++)
    if (shape[axis] == ATHANOR_DIM_DATA_DEPENDENT) return true;
  return false;
}

AthanorStatus ath_session_plan(AthanorSession *session) {
  const AthanorDescriptor *d = session->model->descriptor;
  const size_t symbols_bytes = (size_t)d->num_symbols * sizeof *session->symbols;
  const size_t shapes_bytes =
      (size_t)d->num_outputs * (size_t)d->max_output_ndim * sizeof *session->shapes;
  if (!session->planned || memcmp(session->symbols, session->planned_symbols, symbols_bytes)) {
    session->planned = false;
    if (d->plan(session->symbols, session->arena_bytes, session->planned_shapes)) {
      if (!*athanor_last_error()) ath_set_error("the model can't run on inputs of these shapes");
      return ATHANOR_ERROR_INPUT;
    }
    memcpy(session->planned_symbols, session->symbols, symbols_bytes);
    session->planned = true;
  }
  memcpy(session->shapes, session->planned_shapes, shapes_bytes);
  for (int32_t i = 0; i < d->num_outputs; i++) {
    const AthanorTensorSpec *spec = athanor_output(session->model, i);
    uint64_t size_bytes;
    if (is_data_dependent(session, i)) continue;
    if (ath_size_bytes(ath_output_shape(session, i), spec->ndim, ath_itemsize(spec->dtype),
                       &size_bytes))
      continue;
    char shape[256];
    ath_print_shape(shape, sizeof shape, ath_output_shape(session, i), spec->ndim, NULL);
    return ath_fail(ATHANOR_ERROR_INPUT, "output '%s' would have shape %s with these inputs",
                    spec->name, shape);
  }
  return ATHANOR_OK;
}

static AthanorStatus check_counts(const AthanorSession *session, const DLTensor *inputs,
                                  int32_t num_inputs, const DLTensor *outputs,
                                  int32_t num_outputs) {
  const AthanorDescriptor *d = session->model->descriptor;
  if (num_inputs != d->num_inputs)
    return ath_fail(ATHANOR_ERROR_INPUT, "%s: %d inputs given, expected %d", session->model->path,
                    num_inputs, d->num_inputs);
  if (num_outputs != d->num_outputs)
    return ath_fail(ATHANOR_ERROR_INPUT, "%s: %d outputs given, expected %d", session->model->path,
                    num_outputs, d->num_outputs);
  if ((num_inputs && !inputs) || (num_outputs && !outputs))
    return ath_fail(ATHANOR_ERROR_ARGUMENT, "inputs or outputs is NULL");
  return ATHANOR_OK;
}

/* The device that tensors may be on; -1: the CPU alone. */
static int device_index(const AthanorSession *session) {
  return session->device ? session->device->loaded->device : -1;
}

static AthanorStatus bind(AthanorSession *session, const DLTensor *inputs) {
  AthanorStatus status = ATHANOR_OK;
  for (int32_t i = 0; !status && i < session->model->descriptor->num_inputs; i++)
    status = ath_check_tensor("input", athanor_input(session->model, i), &inputs[i],
                              device_index(session));
  if (!status) status = ath_bind_symbols(session->model, inputs, session->symbols);
  return status ? status : ath_session_plan(session);
}

static void describe(AthanorSession *session, int32_t index, void *data, DLTensor *tensor) {
  const AthanorTensorSpec *spec = athanor_output(session->model, index);
  *tensor = (DLTensor){
      .data = data,
      .device = {kDLCPU, 0},
      .ndim = spec->ndim,
      .dtype = spec->dtype,
      .shape = ath_output_shape(session, index),
  };
}

/* A buffer of the caller's, or one of ours. */
static AthanorStatus place_output(AthanorSession *session, int32_t index, const DLTensor *tensor) {
  const AthanorTensorSpec *spec = athanor_output(session->model, index);
  const int64_t *shape = ath_output_shape(session, index);
  session->output_data[index] = NULL;
  if (is_data_dependent(session, index)) {
    if (!tensor->data) return ATHANOR_OK;
    return ath_fail(ATHANOR_ERROR_INPUT,
                    "output '%s' has a shape that depends on the data: leave its data NULL",
                    spec->name);
  }
  uint64_t size_bytes = 0;
  ath_size_bytes(shape, spec->ndim, ath_itemsize(spec->dtype), &size_bytes);
  if (tensor->data) {
    AthanorTensorSpec exact = *spec;
    exact.shape = shape;
    exact.dim_names = NULL;
    AthanorStatus status = ath_check_tensor("output", &exact, tensor, device_index(session));
    if (!status)
      status = ath_check_data("output", &exact, tensor, &session->output_data[index]);
    if (status || !session->device) return status;
    return ath_device_place_output(session, index, tensor, session->output_data[index],
                                   size_bytes);
  }
  if (session->device) return ath_device_place_output(session, index, tensor, NULL, size_bytes);
  if (!ath_buffer_reserve(&session->outputs[index], size_bytes))
    return ath_fail(ATHANOR_ERROR_MEMORY, "no memory for the %llu bytes of output '%s'",
                    (unsigned long long)size_bytes, spec->name);
  session->output_data[index] = session->outputs[index].data;
  return ATHANOR_OK;
}

void *ath_session_output(AthanorSession *session, int32_t index, int32_t ndim,
                         const int64_t *shape) {
  const AthanorTensorSpec *spec = athanor_output(session->model, index);
  uint64_t size_bytes = 0;
  if (!spec || ndim != spec->ndim || !is_data_dependent(session, index) ||
      !ath_size_bytes(shape, ndim, ath_itemsize(spec->dtype), &size_bytes)) {
    ath_fail(ATHANOR_ERROR_RUN, "the model asked for a wrong output %d", index);
    return NULL;
  }
  if (session->device) {
    session->output_data[index] = ath_device_late_output(session, index, size_bytes);
    if (!session->output_data[index]) return NULL;
  } else if (ath_buffer_reserve(&session->outputs[index], size_bytes)) {
    session->output_data[index] = session->outputs[index].data;
  } else {
    ath_fail(ATHANOR_ERROR_MEMORY, "no memory for the %llu bytes of output '%s'",
             (unsigned long long)size_bytes, spec->name);
    return NULL;
  }
  memcpy(ath_output_shape(session, index), shape, (size_t)ndim * sizeof *shape);
  return session->output_data[index];
}

AthBlock **ath_session_blocks(AthanorSession *session) { return &session->blocks; }

static int64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* The descriptor of a model compiled for profiling, else NULL. */
static const AthanorProfilingDescriptor *profiling(const AthanorModel *model) {
  const AthanorDescriptor *d = model->descriptor;
  const AthanorProfilingDescriptor *with_profile = (const void *)d;
  const bool has_field = d->size_bytes >= sizeof(AthanorProfilingDescriptor);
  return has_field && with_profile->run_profiled ? with_profile : NULL;
}

/* The model's run function, or the one that times steps, whose first event is the whole run. */
static int call(AthanorSession *session, AthanorRun *run, AthanorEvents *events) {
  const AthanorModel *model = session->model;
  AthDeviceSession *device = session->device;
  if (!events && device && device->graph) return ath_graph_run(device, model, run);
  if (!events) return model->descriptor->run(run);
  if (device && ath_timer_start(device)) return -1;
  AthanorEvent whole = {.step = -1, .start_ns = now_ns()};
  events->count = 1;
  int result = profiling(model)->run_profiled(run, events);
  whole.end_ns = now_ns();
  if (device) ath_device_open_gate(device);
  if (device && !result) result = ath_timer_finish(device, events, &whole) ? -1 : 0;
  if (events->capacity) events->events[0] = whole;
  return result;
}

/* events: NULL for a run that is not timed. */
static AthanorStatus execute(AthanorSession *session, AthanorEvents *events) {
  AthDeviceSession *device = session->device;
  if (device) {
    AthanorStatus status = ath_device_reserve_arenas(session);
    if (status) return status;
  } else if (!ath_buffer_reserve(&session->arena, session->arena_bytes[0])) {
    return ath_fail(ATHANOR_ERROR_MEMORY, "no memory for the %llu bytes of intermediate results",
                    (unsigned long long)session->arena_bytes[0]);
  }
  ath_block_free_all(&session->blocks);
  AthanorRun run = {
      .services = ath_services(),
      .inputs = session->input_data,
      .outputs = session->output_data,
      .symbols = session->symbols,
      .weights = session->model->weights,
      .arena = device ? (void *)device->arena.data : session->arena.data,
      .session = session,
      .device_weights = device ? (void *)device->loaded->weights : NULL,
      .host_arena = device ? device->host_arena.data : NULL,
  };
  /* A run may lie inside another one's, where an app's parallel-for runs models. */
  const AthParallel *outer = ath_parallel;
  const size_t depth = ath_workspace_depth();
  ath_parallel = &session->parallel;
  const int result = call(session, &run, events);
  ath_parallel = outer;
  ath_workspace_reset(depth);
  if (result || !session->makes_strings) ath_block_free_all(&session->blocks);
  if (device) ath_device_block_free_all(device);
  if (!result) return ATHANOR_OK;
  char reason[ATH_ERROR_BYTES - 128];
  snprintf(reason, sizeof reason, "%s", athanor_last_error());
  if (!*reason) snprintf(reason, sizeof reason, "a kernel returned %d", result);
  return ath_fail(ATHANOR_ERROR_RUN, "running %s failed: %s", session->model->path, reason);
}

static AthanorStatus run(AthanorSession *session, const DLTensor *inputs, DLTensor *outputs,
                         AthanorEvents *events) {
  const AthanorDescriptor *d = session->model->descriptor;
  AthanorStatus status = bind(session, inputs);
  for (int32_t i = 0; !status && i < d->num_inputs; i++) {
    const AthanorTensorSpec *spec = athanor_input(session->model, i);
    status = ath_check_data("input", spec, &inputs[i], &session->input_data[i]);
    if (!status) status = ath_check_strings(spec, &inputs[i], session->input_data[i]);
    if (!status && session->device)
      status = ath_device_stage_input(session, i, &inputs[i], session->input_data[i]);
  }
  for (int32_t i = 0; !status && i < d->num_outputs; i++)
    status = place_output(session, i, &outputs[i]);
  if (!status) status = execute(session, events);
  if (!status && session->device) return ath_device_finish(session, inputs, outputs);
  for (int32_t i = 0; !status && i < d->num_outputs; i++) {
    if (!session->output_data[i])
      return ath_fail(ATHANOR_ERROR_RUN, "running %s did not make output '%s'",
                      session->model->path, athanor_output(session->model, i)->name);
    if (!outputs[i].data) describe(session, i, session->output_data[i], &outputs[i]);
  }
  return status;
}

static void release_all(AthanorTensor **tensors, int32_t count) {
  for (int32_t i = 0; i < count; i++) {
    athanor_tensor_release(tensors[i]);
    tensors[i] = NULL;
  }
}

/* A run whose outputs are tensors of their own; `tensors` is all NULL. */
static AthanorStatus run_into_tensors(AthanorSession *session, const DLTensor *inputs,
                                      AthanorTensor **tensors) {
  const int32_t count = session->model->descriptor->num_outputs;
  AthDeviceSession *device = session->device;
  DLTensor *outputs = calloc((size_t)count + 1, sizeof *outputs);
  if (!outputs) return ath_fail(ATHANOR_ERROR_MEMORY, "no memory for a run's outputs");
  AthanorStatus status = bind(session, inputs);
  if (!status && !device->results)
    status = ath_result_pool_create(device->loaded->handle, device->loaded->context,
                                    device->stream, &device->results);
  for (int32_t i = 0; !status && i < count; i++) {
    const AthanorTensorSpec *spec = athanor_output(session->model, i);
    if (ath_is_string(spec->dtype))
      status = ath_fail(ATHANOR_ERROR_ARGUMENT, "output '%s' is of strings, which no device has",
                        spec->name);
    else if (is_data_dependent(session, i))
      outputs[i].device = (DLDevice){kDLCUDA, device->loaded->device};
    else if (!(status = ath_tensor_make(session, i, &tensors[i])))
      outputs[i] = *athanor_tensor_view(tensors[i]);
  }
  if (!status) status = run(session, inputs, outputs, NULL);
  for (int32_t i = 0; !status && i < count; i++) {
    if (!tensors[i]) status = ath_tensor_adopt(session, i, &tensors[i]);
    if (!status && device->is_queued) status = ath_tensor_queued(tensors[i]);
  }
  free(outputs);
  return status;
}

/* The calling thread's context is left as it was. */
static AthanorStatus run_on_device(AthanorSession *session, const DLTensor *inputs,
                                   DLTensor *outputs, AthanorTensor **tensors,
                                   AthanorEvents *events) {
  AthDeviceSession *device = session->device;
  CudaHandle popped;
  AthanorStatus status = ath_cuda_check(device->driver->context_push(device->loaded->context),
                                        ATHANOR_ERROR_RUN, "using the device");
  if (status) return status;
  status = tensors ? run_into_tensors(session, inputs, tensors)
                   : run(session, inputs, outputs, events);
  device->has_run |= !status;
  /* Nothing of a failed run may still be reading the caller's memory. */
  if (status) {
    ath_device_open_gate(device);
    device->driver->stream_wait(device->stream);
  }
  if (status && tensors) release_all(tensors, session->model->descriptor->num_outputs);
  device->driver->context_pop(&popped);
  return status;
}

static AthanorStatus enter(AthanorSession *session) {
  ath_clear_error();
  if (!session) return ath_fail(ATHANOR_ERROR_ARGUMENT, "session is NULL");
  if (atomic_exchange(&session->busy, 1))
    return ath_fail(ATHANOR_ERROR_ARGUMENT,
                    "the session is running on another thread: make a session for each thread");
  return ATHANOR_OK;
}

AthanorStatus athanor_session_output_shapes(AthanorSession *session, const DLTensor *inputs,
                                            int32_t num_inputs, DLTensor *outputs,
                                            int32_t num_outputs) {
  AthanorStatus status = enter(session);
  if (status) return status;
  status = check_counts(session, inputs, num_inputs, outputs, num_outputs);
  if (!status) status = bind(session, inputs);
  for (int32_t i = 0; !status && i < num_outputs; i++) {
    int64_t *shape = ath_output_shape(session, i);
    describe(session, i, NULL, &outputs[i]);
    for (int32_t axis = 0; axis < outputs[i].ndim; axis++)
      if (shape[axis] == ATHANOR_DIM_DATA_DEPENDENT) shape[axis] = -1;
  }
  atomic_store(&session->busy, 0);
  return status;
}

static AthanorStatus enter_and_run(AthanorSession *session, const DLTensor *inputs,
                                   int32_t num_inputs, DLTensor *outputs, int32_t num_outputs,
                                   AthanorEvents *events) {
  AthanorStatus status = enter(session);
  if (status) return status;
  status = check_counts(session, inputs, num_inputs, outputs, num_outputs);
  if (!status && events && !profiling(session->model))
    status = ath_fail(ATHANOR_ERROR_ARGUMENT, "%s was not compiled for profiling",
                      session->model->path);
  if (!status) status = session->device ? run_on_device(session, inputs, outputs, NULL, events)
                                        : run(session, inputs, outputs, events);
  atomic_store(&session->busy, 0);
  return status;
}

AthanorStatus athanor_session_run(AthanorSession *session, const DLTensor *inputs,
                                  int32_t num_inputs, DLTensor *outputs, int32_t num_outputs) {
  return enter_and_run(session, inputs, num_inputs, outputs, num_outputs, NULL);
}

AthanorStatus athanor_session_run_tensors(AthanorSession *session, const DLTensor *inputs,
                                          int32_t num_inputs, AthanorTensor **outputs,
                                          int32_t num_outputs) {
  static const DLTensor unused;
  AthanorStatus status = enter(session);
  if (status) return status;
  if (!session->device)
    status = ath_fail(ATHANOR_ERROR_ARGUMENT, "%s is for the CPU: its results are on the host",
                      session->model->path);
  if (!status && num_outputs && !outputs)
    status = ath_fail(ATHANOR_ERROR_ARGUMENT, "inputs or outputs is NULL");
  if (!status) status = check_counts(session, inputs, num_inputs, &unused, num_outputs);
  if (!status) {
    for (int32_t i = 0; i < num_outputs; i++) outputs[i] = NULL;
    status = run_on_device(session, inputs, NULL, outputs, NULL);
  }
  atomic_store(&session->busy, 0);
  return status;
}

void *athanor_session_stream(const AthanorSession *session) {
  return session && session->device ? session->device->stream : NULL;
}

AthanorStatus athanor_session_profile(AthanorSession *session, const DLTensor *inputs,
                                      int32_t num_inputs, DLTensor *outputs, int32_t num_outputs,
                                      AthanorEvent *events, uint64_t capacity,
                                      uint64_t *num_events) {
  AthanorEvents made = {.now_ns = now_ns, .events = events, .capacity = capacity};
  ath_clear_error();
  if (!num_events || (capacity && !events))
    return ath_fail(ATHANOR_ERROR_ARGUMENT, "athanor_session_profile: events or num_events is NULL");
  AthanorStatus status =
      enter_and_run(session, inputs, num_inputs, outputs, num_outputs, &made);
  if (!status) *num_events = made.count;
  return status;
}
