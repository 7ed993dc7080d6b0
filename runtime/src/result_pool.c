/* Device memory of results that outlive their run.
 *
 * Taking memory from the driver and giving it back stops the device, so released memory is kept for
 * the session's next runs. Who released it may have queued work that still reads it. On the
 * session's own stream that work comes first anyway; on the legacy default stream, where most
 * libraries work, an event tells when it is done. No handle of another stream is kept, for it may
 * be gone by then: memory used there goes back to the driver, which waits for the device. */
#include "device.h"

#include <stdlib.h>

#define NO_TIMING 2 /* of CUevent_flags */
#define MOST_FREE 16
#define NO_STREAM ((CudaHandle)(intptr_t)-1)

struct AthResultPool {
  pthread_mutex_t lock;
  int references; /* of the session and of every result that is out */
  bool is_open;   /* the session, and with it the stream, is there */
  int handle; /* of the device */
  CudaHandle context, stream;
  AthResult *free; /* the last released first */
};

AthanorStatus ath_result_pool_create(int handle, CudaHandle context, CudaHandle stream,
                                     AthResultPool **result) {
  CudaHandle retained;
  AthResultPool *pool = calloc(1, sizeof *pool);
  if (!pool) return ath_fail(ATHANOR_ERROR_MEMORY, "no memory for results on the device");
  /* The model, which holds the context, may go before the results do. */
  AthanorStatus status = ath_cuda_check(ath_cuda_driver()->context_retain(&retained, handle),
                                        ATHANOR_ERROR_MACHINE, "starting the device");
  if (status) {
    free(pool);
    return status;
  }
  pthread_mutex_init(&pool->lock, NULL);
  *pool = (AthResultPool){.lock = pool->lock, .references = 1, .is_open = true, .handle = handle,
                          .context = context, .stream = stream};
  *result = pool;
  return ATHANOR_OK;
}

/* Its context is current. */
static void destroy(AthResult *result) {
  const AthCudaDriver *cuda = ath_cuda_driver();
  if (result->data) cuda->memory_free(result->data);
  if (result->event) cuda->event_destroy(result->event);
  free(result);
}

static void destroy_free(AthResultPool *pool) {
  while (pool->free) {
    AthResult *result = pool->free;
    pool->free = result->next;
    destroy(result);
  }
}

/* Beyond MOST_FREE: sizes that nobody asks for any more would stay for good. */
static void drop_oldest(AthResultPool *pool) {
  AthResult **at = &pool->free;
  for (int count = 0; *at && count < MOST_FREE; count++) at = &(*at)->next;
  if (!*at) return;
  destroy(*at); /* the last one, for no more than one is added at a time */
  *at = NULL;
}

/* With the lock, which it gives back. */
static void release_pool(AthResultPool *pool) {
  const bool is_last = --pool->references == 0;
  pthread_mutex_unlock(&pool->lock);
  if (!is_last) return;
  ath_cuda_driver()->context_release(pool->handle);
  pthread_mutex_destroy(&pool->lock);
  free(pool);
}

void ath_result_pool_close(AthResultPool *pool) {
  if (!pool) return;
  pthread_mutex_lock(&pool->lock);
  pool->is_open = false;
  destroy_free(pool);
  release_pool(pool);
}

/* A free one that fits and wastes less than half; with the lock. */
static AthResult *find_free(AthResultPool *pool, uint64_t size_bytes) {
  for (AthResult **at = &pool->free; *at; at = &(*at)->next) {
    AthResult *result = *at;
    if (result->capacity_bytes < size_bytes || result->capacity_bytes / 2 > size_bytes) continue;
    *at = result->next;
    return result;
  }
  return NULL;
}

static AthanorStatus add(AthResultPool *pool, CudaPointer data, uint64_t capacity_bytes,
                         AthResult **made) {
  AthResult *result = calloc(1, sizeof *result);
  if (!result) return ath_fail(ATHANOR_ERROR_MEMORY, "no memory for a result on the device");
  AthanorStatus status =
      ath_cuda_check(ath_cuda_driver()->event_create(&result->event, NO_TIMING),
                     ATHANOR_ERROR_MACHINE, "making an event");
  if (status) {
    free(result);
    return status;
  }
  result->pool = pool;
  result->data = data;
  result->capacity_bytes = capacity_bytes;
  pthread_mutex_lock(&pool->lock);
  pool->references++;
  pthread_mutex_unlock(&pool->lock);
  *made = result;
  return ATHANOR_OK;
}

AthanorStatus ath_result_take(AthResultPool *pool, uint64_t size_bytes, const char *what,
                              AthResult **made) {
  const AthCudaDriver *cuda = ath_cuda_driver();
  pthread_mutex_lock(&pool->lock);
  AthResult *result = find_free(pool, size_bytes);
  if (result) pool->references++;
  pthread_mutex_unlock(&pool->lock);
  if (result) {
    AthanorStatus status = ATHANOR_OK;
    if (result->used_on_default)
      status = ath_cuda_check(cuda->stream_wait_event(pool->stream, result->event, 0),
                              ATHANOR_ERROR_RUN, "waiting for the last use of a result");
    result->used_on_default = result->is_pending = result->was_waited = false;
    *made = result;
    if (status) ath_result_release(result);
    return status;
  }
  CudaPointer data = 0;
  AthanorStatus status = ath_cuda_alloc(&data, size_bytes, what);
  if (status) { /* once more without what is kept */
    pthread_mutex_lock(&pool->lock);
    destroy_free(pool);
    pthread_mutex_unlock(&pool->lock);
    status = ath_cuda_alloc(&data, size_bytes, what);
    if (!status) ath_clear_error();
  }
  if (status) return status;
  status = add(pool, data, size_bytes, made);
  if (status) cuda->memory_free(data);
  return status;
}

AthanorStatus ath_result_adopt(AthResultPool *pool, AthDeviceBuffer *buffer, AthResult **made) {
  AthanorStatus status = add(pool, buffer->data, buffer->capacity_bytes, made);
  if (!status) *buffer = (AthDeviceBuffer){0};
  return status;
}

AthanorStatus ath_result_queued(AthResult *result) {
  result->is_pending = true;
  return ath_cuda_check(ath_cuda_driver()->event_record(result->event, result->pool->stream),
                        ATHANOR_ERROR_RUN, "recording an event");
}

/* Runs with the context of the result's device current. */
static AthanorStatus enter(AthResult *result) {
  return ath_cuda_check(ath_cuda_driver()->context_push(result->pool->context), ATHANOR_ERROR_RUN,
                        "using the device");
}

AthanorStatus ath_result_wait(AthResult *result, CudaHandle stream) {
  const AthCudaDriver *cuda = ath_cuda_driver();
  AthResultPool *pool = result->pool;
  CudaHandle popped;
  pthread_mutex_lock(&pool->lock);
  const bool is_own = pool->is_open && stream == pool->stream;
  if (stream == CUDA_STREAM_LEGACY)
    result->used_on_default = true;
  else if (stream && !is_own)
    result->used_elsewhere = true;
  result->was_waited = true;
  pthread_mutex_unlock(&pool->lock);
  if (!result->is_pending || is_own || stream == NO_STREAM) return ATHANOR_OK;
  AthanorStatus status = enter(result);
  if (status) return status;
  if (stream)
    status = ath_cuda_check(cuda->stream_wait_event(stream, result->event, 0), ATHANOR_ERROR_RUN,
                            "waiting for a result");
  else
    status = ath_cuda_check(cuda->event_wait(result->event), ATHANOR_ERROR_RUN,
                            "running the model on the device");
  cuda->context_pop(&popped);
  return status;
}

void ath_result_use_anywhere(AthResult *result) {
  pthread_mutex_lock(&result->pool->lock);
  result->used_elsewhere = true;
  pthread_mutex_unlock(&result->pool->lock);
}

AthanorStatus ath_result_read(AthResult *result, void *target, uint64_t size_bytes) {
  const AthCudaDriver *cuda = ath_cuda_driver();
  CudaHandle popped;
  AthanorStatus status = ath_result_wait(result, NULL);
  if (status || !size_bytes) return status;
  status = enter(result);
  if (status) return status;
  status = ath_cuda_check(
      cuda->copy((CudaPointer)target, result->data, size_bytes, CUDA_STREAM_PER_THREAD),
      ATHANOR_ERROR_RUN, "copying a result to the host");
  if (!status)
    status = ath_cuda_check(cuda->stream_wait(CUDA_STREAM_PER_THREAD), ATHANOR_ERROR_RUN,
                            "copying a result to the host");
  cuda->context_pop(&popped);
  return status;
}

void ath_result_release(AthResult *result) {
  const AthCudaDriver *cuda = ath_cuda_driver();
  AthResultPool *pool = result->pool;
  CudaHandle popped;
  /* At the end of the process the driver may be gone, and all memory with it. */
  const bool is_current = !cuda->context_push(pool->context);
  pthread_mutex_lock(&pool->lock);
  bool keeps = is_current && pool->is_open && !result->used_elsewhere;
  if (keeps && result->used_on_default)
    keeps = !cuda->event_record(result->event, CUDA_STREAM_LEGACY);
  if (keeps) {
    result->next = pool->free;
    pool->free = result;
    drop_oldest(pool);
  } else {
    destroy(result);
  }
  release_pool(pool);
  if (is_current) cuda->context_pop(&popped);
}
