/* What the parts of the loader share. Every name starts with ath_ and is hidden. */
#ifndef ATHANOR_INTERNAL_H_
#define ATHANOR_INTERNAL_H_

#define _GNU_SOURCE /* affinity, memmem, thread names; every source includes this header first */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "athanor.h"
#include "athanor_abi.h"

#ifndef ATHANOR_VERSION /* set by setup.py */
#define ATHANOR_VERSION "of unknown version"
#endif

/* error.c: the calling thread's error text. */
#define ATH_ERROR_BYTES 2048
AthanorStatus ath_fail(AthanorStatus status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void ath_set_error(const char *message);
void ath_clear_error(void);

/* sha256.c, sha256_x86.c */
extern const uint32_t ath_sha256_constants[64]; /* aligned to 16 bytes */
typedef void (*AthSha256Blocks)(uint32_t state[8], const uint8_t *data, size_t num_blocks);
void ath_sha256(const uint8_t *data, size_t size_bytes, uint8_t digest[32]);
void ath_sha256_with(AthSha256Blocks blocks, const uint8_t *data, size_t size_bytes,
                     uint8_t digest[32]);
void ath_sha256_blocks_portable(uint32_t state[8], const uint8_t *data, size_t num_blocks);
void ath_sha256_blocks_x86(uint32_t state[8], const uint8_t *data, size_t num_blocks);

/* cpu.c */
const char *ath_cpu_family(void);      /* the first part of a triple: "x86_64" */
bool ath_cpu_has(const char *feature); /* a name as in /proc/cpuinfo */

/* cores.c */
int32_t ath_cgroup_cores(const char *membership_path, const char *root); /* 0: no limit */

/* memory.c: a growable block, 64-byte aligned; its content is lost when it grows. */
typedef struct {
  void *data;
  size_t capacity_bytes;
  bool mapped;
} AthBuffer;
bool ath_buffer_reserve(AthBuffer *buffer, uint64_t size_bytes);
void ath_buffer_free(AthBuffer *buffer);

/* run_memory.c: a list of blocks, each 64-byte aligned. */
typedef struct AthBlock AthBlock;
void *ath_block_alloc(AthBlock **blocks, uint64_t size_bytes); /* NULL with an error text */
void ath_block_free(AthBlock **blocks, void *pointer);         /* NULL is no block */
void ath_block_free_all(AthBlock **blocks);

/* workspace.c: scratch memory of kernels, a stack for each thread. */
void *ath_workspace_alloc(uint64_t size_bytes);
int ath_workspace_free(void *pointer);
size_t ath_workspace_depth(void);
void ath_workspace_reset(size_t depth); /* gives back what a failed kernel left */

/* pool.c, parallel.c */
typedef struct {
  int32_t threads;
  int32_t spin_us;
  AthanorParallelFor parallel_for;
  void *parallel_for_user;
} AthParallel;
/* How the run on this thread is parallel; NULL outside of runs and inside of tasks. */
extern _Thread_local const AthParallel *ath_parallel;

typedef struct {
  AthanorTask task;
  void *closure;
  AthanorGroup group;
  atomic_int failed; /* an int: on RISC-V the exchange of a byte needs libatomic */
  int result; /* of the first task that failed, and its error text */
  char error[ATH_ERROR_BYTES];
} AthTasks;
void ath_run_task(AthTasks *tasks, int32_t task_id);
int ath_parallel_launch(AthanorTask task, void *closure, int num_task);
void ath_pool_retain(int32_t helpers);
void ath_pool_release(void);
void ath_pool_run(AthTasks *tasks, int32_t max_helpers, int32_t spin_us);

/* file.c: a mapped file. */
typedef struct {
  const uint8_t *data;
  size_t size_bytes;
  uint64_t device, inode;
} AthFile;
AthanorStatus ath_file_map(const char *path, AthFile *file);
void ath_file_unmap(AthFile *file);

/* footer.c */
AthanorStatus ath_footer_read(const char *path, const AthFile *file, AthanorFooter *footer);
AthanorStatus ath_verify(const char *path, const AthFile *file, const char *weights_path,
                         const uint8_t *weights, const AthanorFooter *footer, bool with_weights);
AthanorStatus ath_verify_metadata(const char *path, const AthFile *file,
                                  const AthanorFooter *footer);
AthanorStatus ath_check_machine(const char *path, const AthanorFooter *footer);

/* model.c, code.c, specs.c */
struct AthanorModel {
  atomic_int references;
  char *path;
  AthFile file, weights_file; /* weights_file: where the weights are beside the artifact */
  const uint8_t *weights;
  AthanorFooter footer;
  void *library;
  const AthanorDescriptor *descriptor; /* NULL: inspect-only */
  AthanorTensorSpec *specs;            /* inputs, then outputs */
  pthread_mutex_t lock;                /* of metadata and devices */
  char *metadata;                      /* zero-terminated; NULL until asked for */
  AthanorModel *next_loaded;           /* code.c's list */
  struct AthDeviceModel *devices;      /* device_model.c: where it is loaded */
};
void ath_model_retain(AthanorModel *model);
AthanorStatus ath_load_code(AthanorModel *model);
void ath_unload_code(AthanorModel *model);
AthanorStatus ath_make_specs(AthanorModel *model);
const AthanorServices *ath_services(void);

/* run.c: memory of a data-dependent output of the run under way. */
void *ath_session_output(AthanorSession *session, int32_t index, int32_t ndim,
                         const int64_t *shape);
/* Services of the run under way, for a model on a device. */
int ath_session_launch(AthanorSession *session, uint32_t function, const int64_t extents[6],
                       uint32_t shared_bytes, void **arguments);
int ath_session_copy(AthanorSession *session, void *target, const void *source,
                     uint64_t size_bytes, int to_host);
void *ath_session_device_alloc(AthanorSession *session, uint64_t size_bytes);
int ath_session_mark(AthanorSession *session, AthanorEvents *events, const AthanorEvent *ended);
void ath_session_device_free(AthanorSession *session, void *pointer);
/* The blocks that its run has allocated. */
AthBlock **ath_session_blocks(AthanorSession *session);

/* tensor.c; `kind` is "input" or "output" */
size_t ath_itemsize(DLDataType dtype);
/* Bytes of the tensor; false on a negative size or an overflow. */
bool ath_size_bytes(const int64_t *shape, int32_t ndim, size_t itemsize, uint64_t *size_bytes);
/* "(batch, 4)"; names may be NULL. */
void ath_print_shape(char *text, size_t size, const int64_t *shape, int32_t ndim,
                     const char *const *names);
/* All but the data pointer and whether symbols agree. device: the CUDA device that the tensor may
 * be on, -1 for none. */
AthanorStatus ath_check_tensor(const char *kind, const AthanorTensorSpec *spec,
                               const DLTensor *tensor, int device);
/* The first element's address, of a tensor that ath_check_tensor has passed. */
AthanorStatus ath_check_data(const char *kind, const AthanorTensorSpec *spec,
                             const DLTensor *tensor, void **data);
bool ath_is_string(DLDataType dtype);
/* That no element of a string tensor is NULL. */
AthanorStatus ath_check_strings(const AthanorTensorSpec *spec, const DLTensor *tensor,
                                const void *data);
/* Symbol values from the shapes of checked inputs. */
AthanorStatus ath_bind_symbols(const AthanorModel *model, const DLTensor *inputs, int64_t *symbols);

#endif /* ATHANOR_INTERNAL_H_ */
