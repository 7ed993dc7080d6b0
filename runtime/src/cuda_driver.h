/* NVIDIA's driver, opened at run time: the functions that are used, under their own names. */
#ifndef ATHANOR_CUDA_DRIVER_H_
#define ATHANOR_CUDA_DRIVER_H_

#include "internal.h"

typedef struct AthCudaOpaque *CudaHandle; /* of a context, a module, a function, a stream, ... */
typedef int CudaResult;                   /* 0 is success */
typedef uintptr_t CudaPointer;            /* of device memory */

#define CUDA_STREAM_LEGACY ((CudaHandle)(uintptr_t)1)     /* the default stream */
#define CUDA_STREAM_PER_THREAD ((CudaHandle)(uintptr_t)2) /* that of the calling thread */

/* X(name, symbol in the library, parameters) */
#define ATH_CUDA_FUNCTIONS(X)                                                                      \
  X(init, cuInit, (unsigned flags))                                                                \
  X(error_name, cuGetErrorName, (CudaResult error, const char **text))                             \
  X(error_string, cuGetErrorString, (CudaResult error, const char **text))                         \
  X(device_count, cuDeviceGetCount, (int *count))                                                  \
  X(device_get, cuDeviceGet, (int *device, int ordinal))                                           \
  X(device_attribute, cuDeviceGetAttribute, (int *value, int attribute, int device))               \
  X(context_retain, cuDevicePrimaryCtxRetain, (CudaHandle *context, int device))                   \
  X(context_release, cuDevicePrimaryCtxRelease_v2, (int device))                                   \
  X(context_push, cuCtxPushCurrent_v2, (CudaHandle context))                                       \
  X(context_pop, cuCtxPopCurrent_v2, (CudaHandle *context))                                        \
  X(module_load, cuModuleLoadData, (CudaHandle *module, const void *image))                        \
  X(module_unload, cuModuleUnload, (CudaHandle module))                                            \
  X(module_function, cuModuleGetFunction,                                                          \
    (CudaHandle *function, CudaHandle module, const char *name))                                   \
  X(function_set_attribute, cuFuncSetAttribute, (CudaHandle function, int attribute, int value))   \
  X(memory_alloc, cuMemAlloc_v2, (CudaPointer * pointer, size_t size_bytes))                       \
  X(memory_free, cuMemFree_v2, (CudaPointer pointer))                                              \
  X(copy, cuMemcpyAsync,                                                                           \
    (CudaPointer target, CudaPointer source, size_t size_bytes, CudaHandle stream))                \
  X(stream_create, cuStreamCreate, (CudaHandle *stream, unsigned flags))                           \
  X(stream_destroy, cuStreamDestroy_v2, (CudaHandle stream))                                       \
  X(stream_wait, cuStreamSynchronize, (CudaHandle stream))                                         \
  X(device_name, cuDeviceGetName, (char *name, int size, int device))                              \
  X(device_memory, cuDeviceTotalMem_v2, (size_t *size_bytes, int device))                          \
  X(memory_info, cuMemGetInfo_v2, (size_t *free_bytes, size_t *size_bytes))                        \
  X(launch_host, cuLaunchHostFunc, (CudaHandle stream, void (*function)(void *), void *user))      \
  X(stream_wait_event, cuStreamWaitEvent,                                                          \
    (CudaHandle stream, CudaHandle event, unsigned flags))                                         \
  X(event_create, cuEventCreate, (CudaHandle *event, unsigned flags))                              \
  X(event_destroy, cuEventDestroy_v2, (CudaHandle event))                                          \
  X(event_record, cuEventRecord, (CudaHandle event, CudaHandle stream))                            \
  X(event_wait, cuEventSynchronize, (CudaHandle event))                                            \
  X(event_elapsed, cuEventElapsedTime, (float *milliseconds, CudaHandle start, CudaHandle end))    \
  X(launch, cuLaunchKernel,                                                                        \
    (CudaHandle function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,     \
     unsigned block_y, unsigned block_z, unsigned shared_bytes, CudaHandle stream,                 \
     void **arguments, void **extra))                                                              \
  X(capture_begin, cuStreamBeginCapture_v2, (CudaHandle stream, int mode))                         \
  X(capture_end, cuStreamEndCapture, (CudaHandle stream, CudaHandle *graph))                       \
  X(graph_instantiate, cuGraphInstantiateWithFlags,                                                \
    (CudaHandle *executable, CudaHandle graph, unsigned long long flags))                          \
  X(graph_launch, cuGraphLaunch, (CudaHandle executable, CudaHandle stream))                       \
  X(graph_executable_destroy, cuGraphExecDestroy, (CudaHandle executable))                         \
  X(graph_destroy, cuGraphDestroy, (CudaHandle graph))

typedef struct {
#define X(name, symbol, parameters) CudaResult(*name) parameters;
  ATH_CUDA_FUNCTIONS(X)
#undef X
} AthCudaDriver;

/* The driver, opened and started by the first call of the process; NULL with an error text. */
const AthCudaDriver *ath_cuda_driver(void);

/* Device memory, at least a byte; the error tells how much was wanted and how much there is. */
AthanorStatus ath_cuda_alloc(CudaPointer *pointer, uint64_t size_bytes, const char *what);

/* ATHANOR_ERROR_MEMORY or `status`, with a text: what failed, and the driver's words. 0 is OK. */
AthanorStatus ath_cuda_check(CudaResult result, AthanorStatus status, const char *what);

#endif /* ATHANOR_CUDA_DRIVER_H_ */
