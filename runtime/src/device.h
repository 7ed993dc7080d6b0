/* A model's code on a device, and a session's memory there. */
#ifndef ATHANOR_DEVICE_H_
#define ATHANOR_DEVICE_H_

#include "cuda_driver.h"

/* Growable device memory; its content is lost when it grows. */
typedef struct {
  CudaPointer data;
  uint64_t capacity_bytes;
} AthDeviceBuffer;

/* device_image.c: code of a model, or of a kernel that is measured. path: whose it is, for errors.
 * The image that fits best; none: an error that names all. */
AthanorStatus ath_image_choose(int handle, int device, const AthanorImage *images, uint32_t count,
                               const char *path, const AthanorImage **chosen);
AthanorStatus ath_image_load(int handle, int device, const AthanorImage *images, uint32_t count,
                             const char *path, CudaHandle *module);
/* found: as many handles as functions. */
AthanorStatus ath_image_functions(CudaHandle module, const AthanorDeviceFunction *functions,
                                  uint32_t count, CudaHandle *found);

/* device_model.c: module and weights on one device, shared by the sessions of a model. */
typedef struct AthDeviceModel {
  struct AthDeviceModel *next;
  int references;
  int device; /* counted from 0 */
  int handle; /* the driver's, of the device */
  CudaHandle context, module;
  CudaHandle *functions;
  CudaPointer weights;
} AthDeviceModel;

/* The descriptor of a model for a device, else NULL. */
const AthanorDeviceDescriptor *ath_device_descriptor(const AthanorModel *model);
/* Loads the model onto a device, or finds it there. The device's context is then current: the
 * caller pops it. */
AthanorStatus ath_device_model_retain(AthanorModel *model, int device, AthDeviceModel **result);
void ath_device_model_release(AthanorModel *model, AthDeviceModel *loaded);

/* result_pool.c: memory of results that outlive their run, used again once they are released. */
typedef struct AthResultPool AthResultPool;
typedef struct AthResult {
  struct AthResult *next; /* of the pool's free ones */
  AthResultPool *pool;
  CudaPointer data;
  uint64_t capacity_bytes;
  CudaHandle event;     /* recorded where its work was queued, or where it was last used */
  bool is_pending;      /* the work of its run may not be done: wait for the event */
  bool used_on_default; /* the legacy default stream may be using it */
  bool used_elsewhere;  /* a stream that is not known may be */
  bool was_waited;      /* who uses it has said where */
} AthResult;
AthanorStatus ath_result_pool_create(int handle, CudaHandle context, CudaHandle stream,
                                     AthResultPool **pool);
/* The session is gone: the pool follows its last result. NULL is no pool. */
void ath_result_pool_close(AthResultPool *pool);
/* In these two the device's context is current. The second one gives memory a new owner. */
AthanorStatus ath_result_take(AthResultPool *pool, uint64_t size_bytes, const char *what,
                              AthResult **result);
AthanorStatus ath_result_adopt(AthResultPool *pool, AthDeviceBuffer *buffer, AthResult **result);
/* The work that makes it is queued, and nobody has waited for it. */
AthanorStatus ath_result_queued(AthResult *result);
/* As athanor_tensor_wait. */
AthanorStatus ath_result_wait(AthResult *result, CudaHandle stream);
/* Who uses it has not said where: its memory goes back to the driver, which waits for the device. */
void ath_result_use_anywhere(AthResult *result);
AthanorStatus ath_result_read(AthResult *result, void *target, uint64_t size_bytes);
/* From any thread. */
void ath_result_release(AthResult *result);

/* device_graph.c, device_timer.c */
typedef struct AthDeviceGraph AthDeviceGraph;
typedef struct AthDeviceTimer AthDeviceTimer;

/* device_session.c */
typedef struct AthDeviceBlock AthDeviceBlock;
typedef struct AthDeviceSession {
  const AthCudaDriver *driver;
  AthDeviceModel *loaded;
  CudaHandle stream;
  bool owns_stream;
  AthBuffer host_arena;
  AthDeviceBuffer arena;
  AthDeviceBuffer *inputs, *outputs; /* of those that the caller has on the host */
  AthBuffer *host_inputs;            /* of those that the caller has on the device, wanted here */
  AthDeviceBlock *blocks;            /* of values whose size the run tells */
  AthResultPool *results;            /* NULL until a run makes tensors */
  AthDeviceGraph *graph;             /* NULL: runs are not captured */
  AthDeviceTimer *timer;             /* NULL until a run is profiled */
  bool has_run;                      /* so that the driver has loaded every kernel */
  bool is_queued;                    /* the last run returned before its work was done */
} AthDeviceSession;

AthanorStatus ath_device_session_create(AthanorModel *model, const AthanorSessionOptions *options,
                                        AthDeviceSession **result);
void ath_device_session_close(AthanorModel *model, AthDeviceSession *device);
AthanorStatus ath_device_reserve(AthDeviceSession *device, AthDeviceBuffer *buffer,
                                 uint64_t size_bytes, const char *what);
AthanorStatus ath_device_copy(AthDeviceSession *device, void *target, const void *source,
                              uint64_t size_bytes);
AthanorStatus ath_device_wait(AthDeviceSession *device);

/* device_timer.c: times of steps on the device. A gate holds the stream back until all is queued, so
 * that no step waits for the host; what waits for the device opens it. */
AthanorStatus ath_timer_start(AthDeviceSession *device);
/* ended: NULL where a step begins, else what it did, to be added to `events`. */
AthanorStatus ath_timer_mark(AthDeviceSession *device, AthanorEvents *events,
                             const AthanorEvent *ended);
/* Waits, and fills in the times of the events and of the whole run. */
AthanorStatus ath_timer_finish(AthDeviceSession *device, AthanorEvents *events,
                               AthanorEvent *whole);
void ath_timer_free(AthDeviceSession *device);
void ath_device_open_gate(AthDeviceSession *device);
void ath_device_count_launch(AthDeviceSession *device);

/* device_graph.c */
AthanorStatus ath_graph_create(AthDeviceSession *device, const AthanorModel *model);
/* The run as a graph, captured where there is none for its symbols and memory. 0, or an error with
 * its text. */
int ath_graph_run(AthDeviceSession *device, const AthanorModel *model, AthanorRun *run);
void ath_graph_free(AthDeviceSession *device);

/* The services of a run. */
int ath_device_launch(AthDeviceSession *device, const AthanorModel *model, uint32_t function,
                      const int64_t extents[6], uint32_t shared_bytes, void **arguments);
void *ath_device_block_alloc(AthDeviceSession *device, uint64_t size_bytes);
void ath_device_block_free(AthDeviceSession *device, void *pointer);
void ath_device_block_free_all(AthDeviceSession *device);

#endif /* ATHANOR_DEVICE_H_ */
