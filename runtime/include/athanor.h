/* Athanor's C API: open a compiled model, make sessions, run them.
 *
 * Threads. A model may be shared by all threads. A session serves one call at a time: give every
 * thread that runs a model a session of its own; sessions share the model's weights. All sessions
 * of a process share one pool of worker threads; a session with one thread never makes or uses
 * it. After fork() the child may use every session of a model for the CPU that was idle then.
 *
 * Ownership. What athanor_open and athanor_session_create hand out belongs to the caller, who
 * closes it; closing NULL is a harmless no-op. A session keeps its model alive, so both may be
 * closed in any order. Strings, shapes and specs that a model hands out live as long as the model.
 * Inputs are read in place during athanor_session_run and never kept. The file must not be changed
 * in place while it is open (replace it by rename): it is mapped, not copied.
 *
 * Errors. Every function that can fail returns a status; athanor_last_error() then holds one
 * sentence for a person. A failed call changes no output argument but where it says so.
 *
 *   AthanorModel *model = NULL;
 *   AthanorSession *session = NULL;
 *   if (athanor_open("m.so", NULL, &model) || athanor_session_create(model, NULL, &session))
 *     die(athanor_last_error());
 *   DLTensor output = {0};                            // data NULL: the session owns the buffer
 *   if (athanor_session_run(session, &input, 1, &output, 1)) die(athanor_last_error());
 *   ... output.data, output.shape: valid until the next call on the session ...
 *   athanor_session_close(session);
 *   athanor_close(model);
 *
 * A function that does not appear here is no part of the API.
 */
#ifndef ATHANOR_H_
#define ATHANOR_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define ATHANOR_API __attribute__((visibility("default")))
#else
#define ATHANOR_API
#endif

/* DLPack's tensor (https://github.com/dmlc/dlpack), the same layout under the same names. An app
 * that uses dlpack.h itself includes it before this header. */
#ifndef DLPACK_DLPACK_H_
typedef enum {
  kDLCPU = 1,
  kDLCUDA = 2,
  kDLCUDAHost = 3 /* of the host, and known to the CUDA driver */
} DLDeviceType;
typedef enum {
  kDLInt = 0,
  kDLUInt = 1,
  kDLFloat = 2,
  kDLOpaqueHandle = 3, /* with 64 bits: a string, see below */
  kDLBfloat = 4,
  kDLBool = 6
} DLDataTypeCode;
typedef struct {
  DLDeviceType device_type;
  int32_t device_id;
} DLDevice;
typedef struct {
  uint8_t code; /* a DLDataTypeCode */
  uint8_t bits; /* of one element */
  uint16_t lanes;
} DLDataType;
typedef struct {
  void *data; /* the first element is at data + byte_offset bytes */
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape;   /* ndim sizes */
  int64_t *strides; /* ndim strides in elements, not bytes; NULL: dense and row-major */
  uint64_t byte_offset;
} DLTensor;
typedef struct DLManagedTensor {
  DLTensor dl_tensor;
  void *manager_ctx;
  void (*deleter)(struct DLManagedTensor *self); /* from any thread */
} DLManagedTensor;
#endif
#ifndef DLPACK_MAJOR_VERSION /* or those of a dlpack.h before version 1 */
typedef struct {
  uint32_t major, minor;
} DLPackVersion;
typedef struct DLManagedTensorVersioned {
  DLPackVersion version;
  void *manager_ctx;
  void (*deleter)(struct DLManagedTensorVersioned *self); /* from any thread */
  uint64_t flags;
  DLTensor dl_tensor;
} DLManagedTensorVersioned;
#endif

typedef enum {
  ATHANOR_OK = 0,
  ATHANOR_ERROR_ARGUMENT = 1, /* the API was called in a way it forbids */
  ATHANOR_ERROR_FILE = 2,     /* a file can't be opened, read or mapped */
  ATHANOR_ERROR_FORMAT = 3,   /* no artifact, cut short, or damaged */
  ATHANOR_ERROR_VERSION = 4,  /* an artifact of another ABI version */
  ATHANOR_ERROR_MACHINE = 5,  /* this machine lacks what the artifact needs */
  ATHANOR_ERROR_INPUT = 6,    /* an input or output tensor does not fit the model */
  ATHANOR_ERROR_MEMORY = 7,   /* out of memory */
  ATHANOR_ERROR_RUN = 8       /* a kernel reported an error */
} AthanorStatus;

typedef struct AthanorModel AthanorModel;
typedef struct AthanorSession AthanorSession;

/* The last error's text on the calling thread; "" when its last call succeeded. Valid until the
 * thread's next call. */
ATHANOR_API const char *athanor_last_error(void);
/* This library's version, "0.1.0". */
ATHANOR_API const char *athanor_version(void);

/* ---- Models ---------------------------------------------------------------------------------- */

typedef enum {
  /* Compare hashes of code, metadata and weights; in a model whose files exceed 64 MB together,
   * leave out the weights, whose reading would take longer than the rest of the loading. */
  ATHANOR_VERIFY_DEFAULT = 0,
  ATHANOR_VERIFY_ALWAYS = 1, /* everything, whatever the size */
  ATHANOR_VERIFY_NEVER = 2   /* the footer and the sizes alone: damaged code may crash */
} AthanorVerify;

/* Never execute anything of the file; only athanor_metadata_json works on such a model. The file
 * may be for another machine. */
#define ATHANOR_OPEN_INSPECT_ONLY 1u

typedef struct {
  uint32_t size_bytes; /* sizeof(AthanorOpenOptions) */
  uint32_t flags;      /* ATHANOR_OPEN_* */
  int32_t verify;      /* an AthanorVerify */
} AthanorOpenOptions;

/* Opens the artifact at `path`. options: NULL for the defaults. Weights are mapped read-only and
 * shared with every process that maps the same file; nothing is copied. Opening runs the
 * artifact's code, as dlopen does: verification finds damage, not malice.
 * Errors: FILE, FORMAT, VERSION, MACHINE, MEMORY, ARGUMENT. */
ATHANOR_API AthanorStatus athanor_open(const char *path, const AthanorOpenOptions *options,
                                       AthanorModel **model);
/* Gives the model up; its memory goes when its last session is closed too. */
ATHANOR_API void athanor_close(AthanorModel *model);

/* What the artifact says of itself: UTF-8 JSON, zero-terminated; NULL on an error. */
ATHANOR_API const char *athanor_metadata_json(AthanorModel *model);

/* An element of a string tensor is a `const char *` to zero-terminated UTF-8; its type is
 * {kDLOpaqueHandle, 64, 1}. Strings of inputs are read in place and never kept. Those of outputs
 * belong to the session and are valid until its next call, in a buffer of the caller's too; but
 * where a model hands on strings of an input, they are the input's own.
 *
 * What a value of the model's graph is. A tensor is one input or output; a value of another kind is
 * several, one after another, each with this kind and its number as `part`:
 *
 *   0 "NAME.elements"  all elements of all tensors of a sequence, one tensor after another, each
 *                      row-major: shape (total)
 *   1 "NAME.shapes"    int64, a row for each tensor: its rank, then its sizes, then anything up to
 *                      the row's end: shape (length, 1 + largest rank)
 *   2 "NAME.present"   bool, whether an optional sequence is there; without it, it has no tensor
 *
 * An optional tensor is a sequence of one tensor, or of none where it is absent. A run refuses
 * shapes that do not fit the elements. athanor_metadata_json tells the value's name and what is
 * known of its tensors' shapes. */
typedef enum {
  ATHANOR_TENSOR = 0,
  ATHANOR_SEQUENCE = 1,
  ATHANOR_OPTIONAL = 2,         /* of a tensor */
  ATHANOR_OPTIONAL_SEQUENCE = 3 /* the only kind with part 2 */
} AthanorKind;

/* An input or an output. For each axis: shape >= 0 is the size, and dim_names is NULL; shape == -1
 * is a size known only at run time, and dim_names its symbol, or NULL where it has no name. Axes
 * with the same symbol have the same size. */
typedef struct {
  const char *name;
  DLDataType dtype;
  int32_t ndim;
  const int64_t *shape;
  const char *const *dim_names;
  int32_t kind; /* an AthanorKind */
  int32_t part; /* which tensor of the value it is */
} AthanorTensorSpec;

/* 0 for an inspect-only model and for NULL. */
ATHANOR_API int32_t athanor_num_inputs(const AthanorModel *model);
ATHANOR_API int32_t athanor_num_outputs(const AthanorModel *model);
/* NULL where index is outside [0, number). */
ATHANOR_API const AthanorTensorSpec *athanor_input(const AthanorModel *model, int32_t index);
ATHANOR_API const AthanorTensorSpec *athanor_output(const AthanorModel *model, int32_t index);

/* ---- Sessions -------------------------------------------------------------------------------- */

/* An app's own parallel loop: calls task(i, argument) once for every i in [0, num_tasks), on any
 * threads and in any order, and returns when all are done. */
typedef void (*AthanorParallelFor)(void *user, int32_t num_tasks,
                                   void (*task)(int32_t task_id, void *argument), void *argument);

/* Runs are captured as CUDA graphs, one for the sizes at hand, and replayed by one call each. Inputs
 * and outputs have fixed places on the device then, and the caller's are copied there and from
 * there. Refused, with the reason, where the host has a part in a run. */
#define ATHANOR_SESSION_CUDA_GRAPH 1u

typedef struct {
  uint32_t size_bytes; /* sizeof(AthanorSessionOptions) */
  int32_t threads;     /* that a run uses, the calling one included; 0: athanor_usable_cores() */
  int32_t spin_us;     /* how long an idle worker spins before it sleeps; 0: 50, negative: never */
  AthanorParallelFor parallel_for; /* used in place of the pool; NULL: the pool */
  void *parallel_for_user;         /* its first argument */
  /* Of a model for a GPU: */
  int32_t device;   /* which GPU, counted by the driver from 0 */
  uint32_t flags;   /* ATHANOR_SESSION_* */
  void *stream;     /* a CUstream of that device's primary context; NULL: one of the session's own */
} AthanorSessionOptions;

/* The cores that this process may use: its affinity mask, less where a cgroup limits it. */
ATHANOR_API int32_t athanor_usable_cores(void);

/* options: NULL for the defaults. The session's memory is allocated by its first run and grows
 * with the largest shapes it meets. Errors: ARGUMENT, MEMORY. */
ATHANOR_API AthanorStatus athanor_session_create(AthanorModel *model,
                                                 const AthanorSessionOptions *options,
                                                 AthanorSession **session);
/* Frees the session and the outputs it owns. */
ATHANOR_API void athanor_session_close(AthanorSession *session);

/* What the outputs would be for these inputs, whose data is not read: fills dtype, device, ndim,
 * shape and strides (NULL) of each output; data becomes NULL. A size that only the run can tell is
 * -1. The shapes are valid until the next call on the session. Errors: INPUT, ARGUMENT. */
ATHANOR_API AthanorStatus athanor_session_output_shapes(AthanorSession *session,
                                                        const DLTensor *inputs, int32_t num_inputs,
                                                        DLTensor *outputs, int32_t num_outputs);

/* Runs the model. Tensors are in the model's order, on the CPU, dense and row-major, and aligned
 * to their element.
 *
 * outputs[i].data != NULL: the result is written there; dtype and shape must be those that
 * athanor_session_output_shapes tells (a size of -1: data must be NULL); the buffer must overlap
 * no input and no other output.
 * outputs[i].data == NULL: the tensor is filled in; its memory belongs to the session and is valid
 * until the next call on the session.
 *
 * A model for a GPU takes tensors on the host and on the session's device (kDLCUDA), the latter
 * without a copy. An output without memory is made on the device where its device_type is kDLCUDA,
 * else on the host. All work is queued on the session's stream. The call returns when it is done;
 * but where the stream is the caller's and all tensors are on the device, when it is queued.
 * Errors: INPUT, ARGUMENT, MEMORY, RUN; the outputs' content is then undefined. */
ATHANOR_API AthanorStatus athanor_session_run(AthanorSession *session, const DLTensor *inputs,
                                              int32_t num_inputs, DLTensor *outputs,
                                              int32_t num_outputs);

/* What a model for a GPU runs on. */
typedef struct {
  uint32_t size_bytes; /* sizeof(AthanorDeviceInfo), set by the caller */
  int32_t device;      /* counted from 0 */
  int32_t capability;  /* 90 of 9.0 */
  int32_t multiprocessors;
  int32_t clock_khz, memory_clock_khz; /* the highest */
  int32_t memory_bus_bits;
  int32_t l2_bytes;
  uint64_t memory_bytes;
  char name[128];
} AthanorDeviceInfo;
/* Errors: ARGUMENT for a model for the CPU. */
ATHANOR_API AthanorStatus athanor_session_device_info(const AthanorSession *session,
                                                      AthanorDeviceInfo *info);

/* ---- Tensors on a device ---------------------------------------------------------------------- */

/* A result in device memory of its own, which lives until all who hold it have released it, longer
 * than its session and model if need be. Any thread may hold and release it. */
typedef struct AthanorTensor AthanorTensor;

/* As athanor_session_run, of a model for a GPU; but each output is a new tensor on the session's
 * device, which the caller releases. The call returns when the results are there; but where the
 * stream is the caller's and all inputs are on the device, when the work is queued.
 * Memory of released tensors is used again by later runs of the session.
 * Errors: as athanor_session_run, and ARGUMENT for a model for the CPU; then there are no outputs. */
ATHANOR_API AthanorStatus athanor_session_run_tensors(AthanorSession *session,
                                                      const DLTensor *inputs, int32_t num_inputs,
                                                      AthanorTensor **outputs,
                                                      int32_t num_outputs);
/* The stream that the session queues its work on, a CUstream; NULL of a model for the CPU. */
ATHANOR_API void *athanor_session_stream(const AthanorSession *session);

/* Its type, shape, strides and address; valid until it is released. */
ATHANOR_API const DLTensor *athanor_tensor_view(const AthanorTensor *tensor);
/* Lets all that is queued on `stream` from now on wait until the tensor is there. stream: a CUstream
 * of the tensor's device, 1 the legacy default one; NULL: the calling thread waits itself; -1:
 * nobody waits. Call it before the tensor is used on a stream that is not its session's. */
ATHANOR_API AthanorStatus athanor_tensor_wait(AthanorTensor *tensor, void *stream);
/* Copies the elements to memory of the host, and waits. */
ATHANOR_API AthanorStatus athanor_tensor_read(AthanorTensor *tensor, void *target);
/* DLPack's form, with a deleter; it holds the tensor, too. NULL: no memory, or elements of less than
 * a byte, which take a whole one here. After athanor_tensor_wait, so that memory is used again only
 * when it is not in use. */
ATHANOR_API DLManagedTensorVersioned *athanor_tensor_to_dlpack(AthanorTensor *tensor);
/* The same as libraries take it that know no DLPack 1.0. */
ATHANOR_API DLManagedTensor *athanor_tensor_to_old_dlpack(AthanorTensor *tensor);
ATHANOR_API void athanor_tensor_release(AthanorTensor *tensor);
/* The destructor of Python's capsules of the two forms, from the addresses of PyCapsule_IsValid and
 * PyCapsule_GetPointer. */
ATHANOR_API void *athanor_capsule_destructor(void *py_capsule_is_valid,
                                             void *py_capsule_get_pointer);

/* ---- Profiling ------------------------------------------------------------------------------- */

/* One execution of one step of a run: a kernel, or a copy between buffers. Steps are numbered as in
 * the metadata, `profile.steps`; step -1 is the whole run. */
typedef struct {
  int32_t step;
  int32_t reserved;
  int64_t start_ns, end_ns; /* of a monotonic clock */
  int64_t operations;       /* arithmetic ones, from the loops before scheduling: an estimate */
  int64_t bytes;            /* of the distinct memory that it reads and writes: an estimate */
} AthanorEvent;

/* Runs the model as athanor_session_run does, and times its steps on the calling thread. events:
 * room for `capacity` of them; *num_events: how many there were, perhaps more than the capacity, of
 * which the first are kept. The first is the whole run. Only a model compiled for profiling has
 * this (athanor compile --profile); others refuse it, and pay nothing for it.
 * Errors: as athanor_session_run, and ARGUMENT for a model that was not compiled for profiling. */
ATHANOR_API AthanorStatus athanor_session_profile(AthanorSession *session, const DLTensor *inputs,
                                                  int32_t num_inputs, DLTensor *outputs,
                                                  int32_t num_outputs, AthanorEvent *events,
                                                  uint64_t capacity, uint64_t *num_events);

#ifdef __cplusplus
}
#endif
#endif /* ATHANOR_H_ */
