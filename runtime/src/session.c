/* Making and closing sessions. */
#include "session.h"

#include <stdlib.h>
#include <string.h>

#define MAX_THREADS 4096
#define DEFAULT_SPIN_US 50

static AthanorStatus take_memory(AthanorSession *session) {
  AthDeviceSession *device = session->device;
  CudaHandle popped;
  AthanorStatus status = ath_session_plan(session);
  if (status) return status;
  status = ath_cuda_check(device->driver->context_push(device->loaded->context),
                          ATHANOR_ERROR_RUN, "using the device");
  if (status) return status;
  status = ath_device_reserve_arenas(session);
  if (!status && device->graph) status = ath_device_reserve_places(session);
  device->driver->context_pop(&popped);
  return status;
}

AthanorStatus athanor_session_create(AthanorModel *model, const AthanorSessionOptions *options,
                                     AthanorSession **result) {
  const AthanorSessionOptions defaults = {.size_bytes = sizeof defaults};
  const size_t first_bytes = offsetof(AthanorSessionOptions, device); /* of version 0.1 */
  AthanorSessionOptions known = {0};
  if (!options) options = &defaults;
  ath_clear_error();
  if (!model || !result)
    return ath_fail(ATHANOR_ERROR_ARGUMENT, "athanor_session_create: model or session is NULL");
  if (!model->descriptor)
    return ath_fail(ATHANOR_ERROR_ARGUMENT, "%s was opened for inspection only", model->path);
  if (options->size_bytes < first_bytes)
    return ath_fail(ATHANOR_ERROR_ARGUMENT, "athanor_session_create: options.size_bytes is %u",
                    options->size_bytes);
  memcpy(&known, options,
         options->size_bytes < sizeof known ? options->size_bytes : sizeof known);
  options = &known;
  if (options->threads < 0 || options->threads > MAX_THREADS)
    return ath_fail(ATHANOR_ERROR_ARGUMENT, "threads is %d, expected 0 to %d", options->threads,
                    MAX_THREADS);
  if (options->flags & ~ATHANOR_SESSION_CUDA_GRAPH)
    return ath_fail(ATHANOR_ERROR_ARGUMENT, "options.flags is %u, which this version does not know",
                    options->flags);
  if (options->flags && !ath_device_descriptor(model))
    return ath_fail(ATHANOR_ERROR_ARGUMENT, "%s is for the CPU, which has no CUDA graphs",
                    model->path);
  const AthanorDescriptor *d = model->descriptor;
  const size_t inputs = (size_t)d->num_inputs, outputs = (size_t)d->num_outputs;
  const size_t symbols = (size_t)d->num_symbols, dims = outputs * (size_t)d->max_output_ndim;
  /* One block; all of its arrays hold 8-byte elements. */
  AthanorSession *session =
      calloc(1, sizeof *session + outputs * sizeof(AthBuffer) +
                    (inputs + outputs) * sizeof(void *) + (2 * symbols + 2 * dims) * 8);
  if (!session) return ath_fail(ATHANOR_ERROR_MEMORY, "no memory for a session of %s", model->path);
  session->outputs = (AthBuffer *)(session + 1);
  session->input_data = (void **)(session->outputs + outputs);
  session->output_data = session->input_data + inputs;
  session->symbols = (int64_t *)(session->output_data + outputs);
  session->planned_symbols = session->symbols + symbols;
  session->planned_shapes = session->planned_symbols + symbols;
  session->shapes = session->planned_shapes + dims;
  session->model = model;
  for (int32_t i = 0; i < d->num_outputs; i++)
    session->makes_strings |= ath_is_string(athanor_output(model, i)->dtype);
  atomic_store(&session->busy, 0);
  session->parallel = (AthParallel){
      .threads = options->threads ? options->threads : athanor_usable_cores(),
      .spin_us = options->spin_us ? options->spin_us : DEFAULT_SPIN_US,
      .parallel_for = options->parallel_for,
      .parallel_for_user = options->parallel_for_user,
  };
  if (ath_device_descriptor(model)) {
    AthanorStatus status = ath_device_session_create(model, options, &session->device);
    /* A model of fixed shapes takes all of its memory now. */
    if (!status && !d->num_symbols) status = take_memory(session);
    if (status) {
      if (session->device) ath_device_session_close(model, session->device);
      free(session);
      return status;
    }
  }
  session->uses_pool = session->parallel.threads > 1 && !session->parallel.parallel_for;
  if (session->uses_pool) ath_pool_retain(session->parallel.threads - 1);
  ath_model_retain(model);
  *result = session;
  return ATHANOR_OK;
}

void athanor_session_close(AthanorSession *session) {
  if (!session) return;
  if (session->device) ath_device_session_close(session->model, session->device);
  if (session->uses_pool) ath_pool_release();
  ath_block_free_all(&session->blocks);
  for (int32_t i = 0; i < session->model->descriptor->num_outputs; i++)
    ath_buffer_free(&session->outputs[i]);
  ath_buffer_free(&session->arena);
  athanor_close(session->model);
  free(session);
}
