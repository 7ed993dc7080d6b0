/* Times of a profiled run's steps on the device, by the driver's events.
 *
 * A kernel of microseconds is queued slower than it runs, and its events would tell when the host
 * came to queue them. So the stream begins with a function that waits for the host, the gate, and
 * the device works off what lies in the queue without a pause. The queue is finite, and whatever
 * waits for the device would wait for ever: such calls open the gate first. */
#include "device.h"

#include <stdlib.h>
#include <time.h>

#define TIMING 0          /* of CUevent_flags */
#define MOST_QUEUED 200   /* launches behind the closed gate; a queue holds 1,000, events too */
#define LONGEST_WAIT_S 10 /* for the host; the times are then less exact, and nothing hangs */

typedef struct {
  CudaHandle start, end;
  uint64_t event; /* number in AthanorEvents */
} Pair;

struct AthDeviceTimer {
  Pair *pairs;
  size_t count, capacity;
  CudaHandle first, last;
  int64_t opened_ns; /* when the device began */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool is_closed;
  int queued;
};

static int64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* On a thread of the driver, which waits with the stream. */
static void wait_at_gate(void *user) {
  AthDeviceTimer *timer = user;
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += LONGEST_WAIT_S;
  pthread_mutex_lock(&timer->lock);
  while (timer->is_closed && !pthread_cond_timedwait(&timer->changed, &timer->lock, &until)) {}
  pthread_mutex_unlock(&timer->lock);
}

static void close_gate(AthDeviceTimer *timer) {
  pthread_mutex_lock(&timer->lock);
  timer->is_closed = true;
  pthread_mutex_unlock(&timer->lock);
}

void ath_device_open_gate(AthDeviceSession *device) {
  AthDeviceTimer *timer = device->timer;
  if (!timer || !timer->is_closed) return;
  pthread_mutex_lock(&timer->lock);
  timer->is_closed = false;
  timer->opened_ns = now_ns();
  pthread_cond_signal(&timer->changed);
  pthread_mutex_unlock(&timer->lock);
}

void ath_device_count_launch(AthDeviceSession *device) {
  AthDeviceTimer *timer = device->timer;
  if (timer && timer->is_closed && ++timer->queued > MOST_QUEUED) ath_device_open_gate(device);
}

static AthanorStatus new_event(const AthCudaDriver *cuda, CudaHandle *event) {
  return ath_cuda_check(cuda->event_create(event, TIMING), ATHANOR_ERROR_MACHINE,
                        "making an event");
}

static AthanorStatus record(AthDeviceSession *device, CudaHandle event) {
  return ath_cuda_check(device->driver->event_record(event, device->stream), ATHANOR_ERROR_RUN,
                        "recording an event");
}

AthanorStatus ath_timer_start(AthDeviceSession *device) {
  const AthCudaDriver *cuda = device->driver;
  AthDeviceTimer *timer = device->timer;
  AthanorStatus status = ATHANOR_OK;
  if (!timer) {
    timer = device->timer = calloc(1, sizeof *timer);
    if (!timer) return ath_fail(ATHANOR_ERROR_MEMORY, "no memory for a profile");
    pthread_mutex_init(&timer->lock, NULL);
    pthread_cond_init(&timer->changed, NULL);
  }
  if (!timer->first) status = new_event(cuda, &timer->first);
  if (!status && !timer->last) status = new_event(cuda, &timer->last);
  if (!status) status = ath_device_wait(device); /* what came before is no part of the run */
  if (status) return status;
  timer->count = 0;
  timer->queued = 0;
  /* A kernel's first launch may wait for the device: no gate then. */
  if (device->has_run) {
    close_gate(timer); /* first, for the driver's thread may be there at once */
    if (cuda->launch_host(device->stream, wait_at_gate, timer)) ath_device_open_gate(device);
  }
  timer->opened_ns = now_ns();
  return record(device, timer->first);
}

static AthanorStatus add_pair(AthDeviceSession *device) {
  AthDeviceTimer *timer = device->timer;
  if (timer->count < timer->capacity) return ATHANOR_OK;
  const size_t capacity = timer->capacity ? 2 * timer->capacity : 64;
  Pair *pairs = realloc(timer->pairs, capacity * sizeof *pairs);
  if (!pairs) return ath_fail(ATHANOR_ERROR_MEMORY, "no memory for a profile");
  timer->pairs = pairs;
  for (; timer->capacity < capacity; timer->capacity++) {
    Pair *pair = &pairs[timer->capacity];
    *pair = (Pair){0};
    AthanorStatus status = new_event(device->driver, &pair->start);
    if (!status) status = new_event(device->driver, &pair->end);
    if (!status) continue;
    if (pair->start) device->driver->event_destroy(pair->start);
    return status;
  }
  return ATHANOR_OK;
}

AthanorStatus ath_timer_mark(AthDeviceSession *device, AthanorEvents *events,
                             const AthanorEvent *ended) {
  AthDeviceTimer *timer = device->timer;
  if (!ended) {
    AthanorStatus status = add_pair(device);
    return status ? status : record(device, timer->pairs[timer->count].start);
  }
  Pair *pair = &timer->pairs[timer->count++];
  pair->event = events->count++;
  if (pair->event < events->capacity) events->events[pair->event] = *ended;
  return record(device, pair->end);
}

/* Nanoseconds from the run's beginning to an event. */
static AthanorStatus elapsed(AthDeviceSession *device, CudaHandle event, int64_t *ns) {
  float milliseconds = 0;
  AthanorStatus status =
      ath_cuda_check(device->driver->event_elapsed(&milliseconds, device->timer->first, event),
                     ATHANOR_ERROR_RUN, "reading an event's time");
  *ns = (int64_t)((double)milliseconds * 1e6);
  return status;
}

AthanorStatus ath_timer_finish(AthDeviceSession *device, AthanorEvents *events,
                               AthanorEvent *whole) {
  AthDeviceTimer *timer = device->timer;
  int64_t start = 0, end = 0;
  AthanorStatus status = record(device, timer->last);
  if (!status) status = ath_device_wait(device);
  for (size_t i = 0; !status && i < timer->count; i++) {
    const Pair *pair = &timer->pairs[i];
    if (pair->event >= events->capacity) continue;
    status = elapsed(device, pair->start, &start);
    if (!status) status = elapsed(device, pair->end, &end);
    events->events[pair->event].start_ns = timer->opened_ns + start;
    events->events[pair->event].end_ns = timer->opened_ns + end;
  }
  if (!status) status = elapsed(device, timer->last, &end);
  whole->start_ns = timer->opened_ns;
  whole->end_ns = timer->opened_ns + end;
  return status;
}

void ath_timer_free(AthDeviceSession *device) {
  AthDeviceTimer *timer = device->timer;
  if (!timer) return;
  for (size_t i = 0; i < timer->capacity; i++) {
    device->driver->event_destroy(timer->pairs[i].start);
    device->driver->event_destroy(timer->pairs[i].end);
  }
  if (timer->first) device->driver->event_destroy(timer->first);
  if (timer->last) device->driver->event_destroy(timer->last);
  pthread_cond_destroy(&timer->changed);
  pthread_mutex_destroy(&timer->lock);
  free(timer->pairs);
  free(timer);
}
