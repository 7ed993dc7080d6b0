/* The contract between the loader (libathanor) and an artifact (model.so).
 *
 * Not part of the public API: applications include athanor.h. The artifact's generated C and the
 * loader are the only users; any change of meaning or layout raises ATHANOR_ABI_VERSION.
 */
#ifndef ATHANOR_ABI_H_
#define ATHANOR_ABI_H_

#include <stdint.h>

#include "athanor.h" /* AthanorEvent */

#define ATHANOR_ABI_VERSION 3u

/* Marks a dimension of an output that is known only after the run (data-dependent). */
#define ATHANOR_DIM_DATA_DEPENDENT INT64_MIN
/* In AthanorTensorInfo.shape: d >= 0 is static; d < 0 is symbol number -(d + 1), for outputs a
 * value that `plan` computes where it is no plain symbol (ATHANOR_DIM_COMPUTED). */
#define ATHANOR_DIM_SYMBOL(index) (-(int64_t)(index) - 1)
#define ATHANOR_DIM_COMPUTED (INT64_MIN + 1)

/* The body of a parallel loop, called once per task id in [0, group->num_task). */
typedef struct {
  void *sync_handle; /* unused, kept for TVM's layout of TVMParallelGroupEnv */
  int32_t num_task;
} AthanorGroup;
typedef int (*AthanorTask)(int task_id, AthanorGroup *group, void *closure);

typedef struct AthanorRun AthanorRun;
struct AthanorEvents;

/* What the loader gives an artifact; the table outlives the artifact. */
typedef struct {
  uint32_t abi_version;
  uint32_t size_bytes;
  /* Runs task(0..n-1) on the threads of the session that the calling thread is running, and waits.
   * num_task == 0: as many tasks as the session has threads. 0, or the first non-zero result. */
  int (*parallel_launch)(AthanorTask task, void *closure, int num_task);
  /* Scratch memory for one kernel, 64-byte aligned; freed in reverse order by the same thread. */
  void *(*workspace_alloc)(uint64_t size_bytes);
  int (*workspace_free)(void *pointer);
  /* Gives memory for a data-dependent output once its shape is known; NULL when there is none. */
  void *(*output)(AthanorRun *run, int32_t index, int32_t ndim, const int64_t *shape);
  /* Sets the calling thread's error text; copied. */
  void (*set_error)(const char *message);
  /* 64-byte aligned memory for a value whose size the run has computed, until run_free or the end
   * of the run; NULL with an error text when there is none. Run_free takes NULL too. */
  void *(*run_alloc)(AthanorRun *run, uint64_t size_bytes);
  void (*run_free)(AthanorRun *run, void *pointer);

  /* For artifacts with device images; a loader whose table is shorter knows no devices. All work is
   * queued on the run's stream, in order.
   *
   * Queues function number `function` of the descriptor; extents: blocks along x, y, z, threads
   * along x, y, z. arguments: as cuLaunchKernel's kernelParams. An extent of 0 queues nothing. */
  int (*device_launch)(AthanorRun *run, uint32_t function, const int64_t extents[6],
                       uint32_t shared_bytes, void **arguments);
  /* Queues a copy between host and device in any direction; to_host: and waits for it. */
  int (*device_copy)(AthanorRun *run, void *target, const void *source, uint64_t size_bytes,
                     int to_host);
  /* As run_alloc and run_free, of device memory. */
  void *(*device_alloc)(AthanorRun *run, uint64_t size_bytes);
  void (*device_free)(AthanorRun *run, void *pointer);
  /* Of a profiled run: before a step on the device, with NULL, and behind it, with what it did; the
   * times are filled in at the run's end. */
  int (*device_mark)(AthanorRun *run, struct AthanorEvents *events, const AthanorEvent *ended);
} AthanorServices;

/* One run: all pointers stay valid until `run` returns. */
struct AthanorRun {
  const AthanorServices *services;
  void *const *inputs;    /* num_inputs data pointers: dense, row-major, aligned to the element */
  void *const *outputs;   /* num_outputs data pointers; NULL for a data-dependent one */
  const int64_t *symbols; /* num_symbols values */
  const uint8_t *weights; /* read-only, page-aligned */
  uint8_t *arena;         /* arena_bytes of the plan, 64-byte aligned */
  void *session;          /* the loader's own */
  /* For artifacts with device images: then `arena` is device memory, and so are the inputs and
   * outputs that the descriptor does not say to be on the host. */
  const uint8_t *device_weights;
  uint8_t *host_arena;
};

typedef struct {
  const char *name;
  uint8_t dtype_code; /* DLPack's DLDataTypeCode */
  uint8_t dtype_bits;
  uint16_t dtype_lanes;
  int32_t ndim;
  const int64_t *shape;
  uint32_t kind; /* an AthanorKind */
  uint32_t part; /* of a value of that kind, 0 first; all parts follow one another */
} AthanorTensorInfo;

/* The one exported symbol of an artifact. */
typedef struct {
  uint32_t abi_version;
  uint32_t size_bytes;
  int32_t num_inputs, num_outputs, num_symbols, max_output_ndim;
  const AthanorTensorInfo *inputs, *outputs;
  const char *const *symbols; /* names of the symbolic dimensions */
  uint64_t weights_bytes;
  /* Fills the kernel table; called once after loading. 0 or an error with set_error. */
  int (*init)(const AthanorServices *services);
  /* Memory and output shapes for these symbol values. output_shapes: num_outputs rows of
   * max_output_ndim values, ATHANOR_DIM_DATA_DEPENDENT where unknown. */
  int (*plan)(const int64_t *symbols, uint64_t *arena_bytes, int64_t *output_shapes);
  int (*run)(AthanorRun *run);
} AthanorDescriptor;
#define ATHANOR_DESCRIPTOR_SYMBOL "athanor_descriptor"

/* Where a profiled run writes its events. */
typedef struct AthanorEvents {
  int64_t (*now_ns)(void);
  AthanorEvent *events;
  uint64_t capacity, count; /* count goes on past the capacity */
} AthanorEvents;

/* What an artifact compiled for profiling exports instead; size_bytes tells. */
typedef struct {
  AthanorDescriptor base;
  int (*run_profiled)(AthanorRun *run, AthanorEvents *events);
} AthanorProfilingDescriptor;

/* Device code. One fits a device of the same major compute capability and an equal or higher minor
 * one, with a letter behind it only the very same; PTX (zero-terminated) fits every later device. */
typedef struct {
  const char *architecture; /* "sm_80", "sm_90a": a cubin; "compute_90": PTX */
  const void *data;
  uint64_t size_bytes;
} AthanorImage;
typedef struct {
  const char *name;
  uint32_t shared_bytes; /* the most dynamic shared memory of its launches */
} AthanorDeviceFunction;

/* What an artifact for a GPU exports. `plan` writes two sizes: of the device's arena and of the
 * host's. run_profiled is NULL where the artifact was not compiled for profiling. */
typedef struct {
  AthanorProfilingDescriptor profiling;
  uint32_t num_images, num_functions;
  const AthanorImage *images;
  const AthanorDeviceFunction *functions;
  const uint8_t *inputs_on_host, *outputs_on_host; /* one byte each: 1 on the host */
  /* NULL where a run only queues work, the same for equal symbols and addresses: a CUDA graph may
   * do it again. Else a sentence. */
  const char *why_not_captured;
} AthanorDeviceDescriptor;

/* The file: [ELF shared object][zeros to a page][weights][metadata JSON][AthanorFooter].
 *
 * Everything behind the ELF image is mapped by the loader, not by ld.so: linking does not copy
 * hundreds of megabytes through the assembler and the linker, the same code serves weights in a
 * file beside the library, and hashes are over plain ranges of the file. Little-endian.
 * The footer's size and the place of abi_version are the same in every version, or a loader could
 * not tell the version; what a version adds goes into `flags` and `reserved`. */
#define ATHANOR_FOOTER_MAGIC "ATHANOR\1"
#define ATHANOR_FLAG_WEIGHTS_BESIDE 1u /* weights are in the file "<artifact>.weights", offset 0 */
typedef struct {
  uint32_t abi_version; /* first of all, so that every version can be told */
  uint32_t footer_bytes;
  uint32_t flags;
  uint32_t reserved;
  uint64_t code_bytes;      /* the ELF image is [0, code_bytes) */
  uint64_t weights_offset;  /* page-aligned */
  uint64_t weights_bytes;
  uint64_t metadata_offset; /* UTF-8 JSON, not zero-terminated */
  uint64_t metadata_bytes;
  uint8_t code_sha256[32];
  uint8_t weights_sha256[32];
  uint8_t metadata_sha256[32];
  char triple[64];        /* "x86_64-linux-gnu", zero-padded */
  char cpu_features[256]; /* space-separated names as in /proc/cpuinfo: "avx2 fma f16c" */
  uint8_t footer_sha256[32]; /* of all footer bytes before this field */
  char magic[8];             /* ATHANOR_FOOTER_MAGIC, the file's last bytes */
} AthanorFooter;

#endif /* ATHANOR_ABI_H_ */
