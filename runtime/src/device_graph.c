/* Runs as CUDA graphs: the launches of one run, captured once and replayed by one call.
 *
 * A graph has the addresses of what it works on, so in a session with graphs inputs and outputs
 * have fixed places, and those of the caller's are copied. It holds for the sizes that it was
 * captured with; other ones are captured anew. The first run of a size is no graph: kernels that
 * the driver has yet to load can't be captured. */
#include "device.h"

#include <stdlib.h>
#include <string.h>

#define NON_BLOCKING 1
#define THREAD_LOCAL 1 /* of CUstreamCaptureMode: other threads may do as they like */

struct AthDeviceGraph {
  CudaHandle stream, executable;
  size_t key_words;
  uintptr_t key[]; /* what `executable` was captured with: symbols, addresses */
};

static size_t words_of(const AthanorDescriptor *d) {
  return (size_t)d->num_symbols + (size_t)d->num_inputs + (size_t)d->num_outputs + 1;
}

static void write_key(const AthanorDescriptor *d, const AthanorRun *run, uintptr_t *key) {
  for (int32_t i = 0; i < d->num_symbols; i++) *key++ = (uintptr_t)run->symbols[i];
  for (int32_t i = 0; i < d->num_inputs; i++) *key++ = (uintptr_t)run->inputs[i];
  for (int32_t i = 0; i < d->num_outputs; i++) *key++ = (uintptr_t)run->outputs[i];
  *key = (uintptr_t)run->arena;
}

AthanorStatus ath_graph_create(AthDeviceSession *device, const AthanorModel *model) {
  const AthanorDeviceDescriptor *d = ath_device_descriptor(model);
  const size_t words = words_of(model->descriptor);
  const bool says = model->descriptor->size_bytes >= sizeof *d;
  if (!says || d->why_not_captured)
    return ath_fail(ATHANOR_ERROR_ARGUMENT, "%s can't run as a CUDA graph: %s", model->path,
                    says ? d->why_not_captured : "it does not say whether; compile it again");
  /* Twice: the key of the graph, and that of the run under way. */
  AthDeviceGraph *graph = calloc(1, sizeof *graph + 2 * words * sizeof *graph->key);
  if (!graph) return ath_fail(ATHANOR_ERROR_MEMORY, "no memory for a CUDA graph");
  graph->key_words = words;
  device->graph = graph;
  return ath_cuda_check(device->driver->stream_create(&graph->stream, NON_BLOCKING),
                        ATHANOR_ERROR_MACHINE, "making a stream");
}

static void forget(AthDeviceSession *device) {
  AthDeviceGraph *graph = device->graph;
  if (!graph->executable) return;
  device->driver->stream_wait(device->stream); /* the graph may still run */
  device->driver->graph_executable_destroy(graph->executable);
  graph->executable = NULL;
}

/* The run's launches, queued nowhere. */
static int record(AthDeviceSession *device, const AthanorModel *model, AthanorRun *run,
                  CudaHandle *recorded) {
  const AthCudaDriver *cuda = device->driver;
  const CudaHandle stream = device->stream;
  char reason[ATH_ERROR_BYTES];
  if (ath_cuda_check(cuda->capture_begin(device->graph->stream, THREAD_LOCAL), ATHANOR_ERROR_RUN,
                     "beginning a CUDA graph"))
    return -1;
  device->stream = device->graph->stream;
  const int result = model->descriptor->run(run);
  device->stream = stream;
  strcpy(reason, athanor_last_error());
  const CudaResult ended = cuda->capture_end(device->graph->stream, recorded);
  if (!result) return ath_cuda_check(ended, ATHANOR_ERROR_RUN, "ending a CUDA graph") ? -1 : 0;
  if (!ended && *recorded) cuda->graph_destroy(*recorded);
  ath_set_error(reason);
  return result;
}

static int capture(AthDeviceSession *device, const AthanorModel *model, AthanorRun *run) {
  const AthCudaDriver *cuda = device->driver;
  AthDeviceGraph *graph = device->graph;
  CudaHandle recorded = NULL;
  const int result = record(device, model, run, &recorded);
  if (result) return result;
  const AthanorStatus status =
      ath_cuda_check(cuda->graph_instantiate(&graph->executable, recorded, 0), ATHANOR_ERROR_RUN,
                     "making a CUDA graph");
  cuda->graph_destroy(recorded);
  if (status) graph->executable = NULL;
  return status ? -1 : 0;
}

int ath_graph_run(AthDeviceSession *device, const AthanorModel *model, AthanorRun *run) {
  AthDeviceGraph *graph = device->graph;
  const size_t key_bytes = graph->key_words * sizeof *graph->key;
  uintptr_t *now = graph->key + graph->key_words;
  write_key(model->descriptor, run, now);
  if (graph->executable && !memcmp(graph->key, now, key_bytes))
    return ath_cuda_check(device->driver->graph_launch(graph->executable, device->stream),
                          ATHANOR_ERROR_RUN, "running a CUDA graph")
               ? -1
               : 0;
  forget(device);
  const int result = model->descriptor->run(run);
  if (result) return result;
  memcpy(graph->key, now, key_bytes);
  return capture(device, model, run);
}

void ath_graph_free(AthDeviceSession *device) {
  if (!device->graph) return;
  forget(device);
  if (device->graph->stream) device->driver->stream_destroy(device->graph->stream);
  free(device->graph);
}
