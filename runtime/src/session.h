/* What a session is. */
#ifndef ATHANOR_SESSION_H_
#define ATHANOR_SESSION_H_

#include "device.h"

struct AthanorSession {
  AthanorModel *model;
  AthParallel parallel;
  atomic_int busy; /* an int, as `failed` in internal.h */
  bool uses_pool;
  AthBuffer arena;
  AthBlock *blocks; /* of values whose size the run tells; between runs, of outputs' strings */
  bool makes_strings;
  AthBuffer *outputs; /* memory of those outputs that the session owns */
  void **input_data, **output_data;
  int64_t *symbols;
  /* What `plan` said for planned_symbols; shapes: the same, completed by the run. */
  bool planned;
  int64_t *planned_symbols, *planned_shapes, *shapes;
  uint64_t arena_bytes[2];    /* of a model for a device: there, and on the host */
  AthDeviceSession *device;   /* NULL: the model runs on the CPU */
};

/* run.c */
/* Memory and output shapes for the session's symbols. */
AthanorStatus ath_session_plan(AthanorSession *session);
int64_t *ath_output_shape(const AthanorSession *session, int32_t index);

/* device_run.c: a run's tensors between where the caller has them and where the model wants them.
 * The device's context is current. */

/* Sets input_data of a checked input, whose elements are at `data`. */
AthanorStatus ath_device_stage_input(AthanorSession *session, int32_t index, const DLTensor *tensor,
                                     void *data);
/* Sets output_data; data: the caller's memory, or NULL. */
AthanorStatus ath_device_place_output(AthanorSession *session, int32_t index,
                                      const DLTensor *tensor, void *data, uint64_t size_bytes);
/* Memory of an output whose size the run has told. */
void *ath_device_late_output(AthanorSession *session, int32_t index, uint64_t size_bytes);
/* Takes the memory of all inputs and outputs on the device, of fixed shapes; for CUDA graphs. */
AthanorStatus ath_device_reserve_places(AthanorSession *session);
/* Takes both arenas. */
AthanorStatus ath_device_reserve_arenas(AthanorSession *session);
/* Copies outputs to where the caller wants them, fills in those without memory, and waits unless
 * all is on the caller's device and stream. */
AthanorStatus ath_device_finish(AthanorSession *session, const DLTensor *inputs, DLTensor *outputs);

/* device_tensor.c: an output as a tensor of its own: with memory for the shape that is known; with
 * the memory that the run has given it; and whose work is queued, but not done. */
AthanorStatus ath_tensor_make(AthanorSession *session, int32_t index, AthanorTensor **tensor);
AthanorStatus ath_tensor_adopt(AthanorSession *session, int32_t index, AthanorTensor **tensor);
AthanorStatus ath_tensor_queued(AthanorTensor *tensor);

#endif /* ATHANOR_SESSION_H_ */
