/* The process's worker threads, shared by all sessions.
 *
 * A launch puts its tasks into a list and works on them itself; idle workers join the launch that
 * has the fewest. So a launch ends even if no worker is free, and two sessions that launch at once
 * share the workers. The pool lives while a session that uses it does. */
#include "internal.h"

#include <signal.h>
#include <stdlib.h>
#include <time.h>

typedef struct Launch {
  struct Launch *next_launch;
  AthTasks *tasks;
  atomic_int next_task;
  atomic_int helpers; /* workers inside; raised with the lock held */
  int32_t max_helpers;
  int32_t spin_us;
} Launch;

static struct {
  pthread_mutex_t lifecycle; /* of sessions, wanted, threads, size; taken before lock */
  int32_t sessions, wanted;
  pthread_t *threads;
  int32_t size;
  atomic_int complete; /* false: fewer workers than wanted were tried, as after a fork */

  pthread_mutex_t lock; /* of what follows */
  pthread_cond_t work, done;
  Launch *first;
  int32_t sleeping, spinning;
  int32_t spin_us; /* of the latest launch */
  bool stopping;
  atomic_uint launches; /* changes when there is new work */
  atomic_int waiting;   /* launching threads that sleep until their helpers leave */
} pool = {
    .lifecycle = PTHREAD_MUTEX_INITIALIZER,
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .work = PTHREAD_COND_INITIALIZER,
    .done = PTHREAD_COND_INITIALIZER,
};

static int64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void pause_briefly(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static int64_t deadline_ns(int32_t spin_us) {
  return spin_us > 0 ? now_ns() + (int64_t)spin_us * 1000 : 0;
}

static void run_tasks(Launch *launch) {
  AthTasks *tasks = launch->tasks;
  while (!atomic_load(&tasks->failed)) {
    /* On x86 this and what follows the last task also wait for non-temporal stores before them. */
    const int32_t task_id = atomic_fetch_add(&launch->next_task, 1);
    if (task_id >= tasks->group.num_task) return;
    ath_run_task(tasks, task_id);
  }
}

static bool has_tasks(const Launch *launch) {
  return atomic_load(&launch->next_task) < launch->tasks->group.num_task &&
         !atomic_load(&launch->tasks->failed);
}

/* With the lock held: the launch with work left and the fewest helpers; joins it. */
static Launch *join_launch(void) {
  Launch *best = NULL;
  for (Launch *launch = pool.first; launch; launch = launch->next_launch) {
    const int32_t helpers = atomic_load(&launch->helpers);
    if (helpers < launch->max_helpers && has_tasks(launch) &&
        (!best || helpers < atomic_load(&best->helpers)))
      best = launch;
  }
  if (best) atomic_fetch_add(&best->helpers, 1);
  return best;
}

static void leave_launch(Launch *launch) {
  /* The launching thread may return right after: `launch` is not touched again. */
  atomic_fetch_sub(&launch->helpers, 1);
  if (!atomic_load(&pool.waiting)) return;
  pthread_mutex_lock(&pool.lock);
  pthread_cond_broadcast(&pool.done);
  pthread_mutex_unlock(&pool.lock);
}

/* With the lock held: waits for a change of pool.launches without the lock, in user space. */
static void spin(int64_t deadline) {
  const unsigned seen = atomic_load(&pool.launches);
  pool.spinning++;
  pthread_mutex_unlock(&pool.lock);
  while (atomic_load(&pool.launches) == seen && now_ns() < deadline)
    for (int i = 0; i < 32 && atomic_load(&pool.launches) == seen; i++) pause_briefly();
  pthread_mutex_lock(&pool.lock);
  pool.spinning--;
}

static void *work(void *unused) {
  int64_t deadline = 0;
  pthread_mutex_lock(&pool.lock);
  for (;;) {
    Launch *launch = join_launch();
    if (launch) {
      const int32_t spin_us = launch->spin_us;
      pthread_mutex_unlock(&pool.lock);
      run_tasks(launch);
      leave_launch(launch);
      deadline = deadline_ns(spin_us);
      pthread_mutex_lock(&pool.lock);
    } else if (pool.stopping) {
      break;
    } else if (deadline && now_ns() < deadline) {
      spin(deadline);
    } else {
      pool.sleeping++;
      pthread_cond_wait(&pool.work, &pool.lock);
      pool.sleeping--;
      /* To wake up can take longer than a small kernel: who comes too late for this launch is there
       * for the next. Otherwise a model of small kernels would never get any help. */
      deadline = deadline_ns(pool.spin_us);
    }
  }
  pthread_mutex_unlock(&pool.lock);
  return unused;
}

/* ---- Life of the pool ------------------------------------------------------------------------ */

static void before_fork(void) {
  pthread_mutex_lock(&pool.lifecycle);
  pthread_mutex_lock(&pool.lock);
}

static void after_fork_in_parent(void) {
  pthread_mutex_unlock(&pool.lock);
  pthread_mutex_unlock(&pool.lifecycle);
}

/* The child has none of the workers and none of the threads that were launching; the next launch
 * makes new workers. */
static void after_fork_in_child(void) {
  pthread_mutex_init(&pool.lifecycle, NULL);
  pthread_mutex_init(&pool.lock, NULL);
  pthread_cond_init(&pool.work, NULL);
  pthread_cond_init(&pool.done, NULL);
  pool.first = NULL;
  pool.size = pool.sleeping = pool.spinning = 0;
  pool.stopping = false;
  atomic_store(&pool.waiting, 0);
  atomic_store(&pool.complete, false);
}

static void watch_forks(void) {
  pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* With lifecycle held. Where the system gives no more threads, there are fewer helpers. */
static void grow(void) {
  pthread_t *threads = realloc(pool.threads, (size_t)pool.wanted * sizeof *threads);
  if (threads) pool.threads = threads;
  /* Signals are the app's affair: its handlers shall not run on our threads. */
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  while (threads && pool.size < pool.wanted &&
         !pthread_create(&pool.threads[pool.size], NULL, work, NULL)) {
    pthread_setname_np(pool.threads[pool.size], "athanor");
    pool.size++;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  atomic_store(&pool.complete, true);
}

void ath_pool_retain(int32_t helpers) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, watch_forks);
  pthread_mutex_lock(&pool.lifecycle);
  pool.sessions++;
  if (helpers > pool.wanted) pool.wanted = helpers;
  if (pool.size < pool.wanted) grow();
  pthread_mutex_unlock(&pool.lifecycle);
}

void ath_pool_release(void) {
  pthread_mutex_lock(&pool.lifecycle);
  if (--pool.sessions == 0) {
    pthread_mutex_lock(&pool.lock);
    pool.stopping = true;
    atomic_fetch_add(&pool.launches, 1);
    pthread_cond_broadcast(&pool.work);
    pthread_mutex_unlock(&pool.lock);
    for (int32_t i = 0; i < pool.size; i++) pthread_join(pool.threads[i], NULL);
    free(pool.threads);
    pool.threads = NULL;
    pool.size = pool.wanted = 0;
    pool.stopping = false;
  }
  pthread_mutex_unlock(&pool.lifecycle);
}

/* ---- Launching ------------------------------------------------------------------------------- */

static void announce(Launch *launch) {
  pthread_mutex_lock(&pool.lock);
  Launch **last = &pool.first;
  while (*last) last = &(*last)->next_launch;
  *last = launch;
  pool.spin_us = launch->spin_us;
  atomic_fetch_add(&pool.launches, 1);
  int32_t wake = launch->max_helpers - pool.spinning;
  if (wake > pool.sleeping) wake = pool.sleeping;
  for (; wake > 0; wake--) pthread_cond_signal(&pool.work);
  pthread_mutex_unlock(&pool.lock);
}

/* After this no worker joins. */
static void withdraw(Launch *launch) {
  pthread_mutex_lock(&pool.lock);
  Launch **at = &pool.first;
  while (*at != launch) at = &(*at)->next_launch;
  *at = launch->next_launch;
  pthread_mutex_unlock(&pool.lock);
}

static void wait_for_helpers(Launch *launch) {
  if (!atomic_load(&launch->helpers)) return;
  const int64_t deadline = deadline_ns(launch->spin_us);
  while (deadline && now_ns() < deadline)
    for (int i = 0; i < 32; i++) {
      if (!atomic_load(&launch->helpers)) return;
      pause_briefly();
    }
  pthread_mutex_lock(&pool.lock);
  /* `waiting` is raised before `helpers` is read, and a worker lowers `helpers` before it reads
   * `waiting`: one of the two sees the other. */
  atomic_fetch_add(&pool.waiting, 1);
  while (atomic_load(&launch->helpers)) pthread_cond_wait(&pool.done, &pool.lock);
  atomic_fetch_sub(&pool.waiting, 1);
  pthread_mutex_unlock(&pool.lock);
}

void ath_pool_run(AthTasks *tasks, int32_t max_helpers, int32_t spin_us) {
  if (!atomic_load(&pool.complete)) {
    pthread_mutex_lock(&pool.lifecycle);
    if (pool.size < pool.wanted) grow();
    pthread_mutex_unlock(&pool.lifecycle);
  }
  Launch launch = {.tasks = tasks, .max_helpers = max_helpers, .spin_us = spin_us};
  announce(&launch);
  run_tasks(&launch);
  withdraw(&launch);
  wait_for_helpers(&launch);
}
