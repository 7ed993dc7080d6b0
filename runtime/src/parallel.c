/* parallel_launch: where the tasks of a kernel's parallel loop run. */
#include "internal.h"

_Thread_local const AthParallel *ath_parallel;

void ath_run_task(AthTasks *tasks, int32_t task_id) {
  /* A loop inside of a task runs inline: its threads are at work already. */
  const AthParallel *outer = ath_parallel;
  const size_t depth = ath_workspace_depth();
  ath_parallel = NULL;
  const int result = tasks->task(task_id, &tasks->group, tasks->closure);
  ath_parallel = outer;
  ath_workspace_reset(depth);
  if (!result || atomic_exchange(&tasks->failed, true)) return;
  tasks->result = result;
  /* The text is this thread's; the thread that launched will report it. */
  const char *text = athanor_last_error();
  size_t i = 0;
  for (; text[i] && i < sizeof tasks->error - 1; i++) tasks->error[i] = text[i];
  tasks->error[i] = 0;
}

typedef struct {
  AthTasks *tasks;
  atomic_int done;
} Loop;

static void run_loop_task(int32_t task_id, void *argument) {
  Loop *loop = argument;
  if (task_id >= 0 && task_id < loop->tasks->group.num_task) ath_run_task(loop->tasks, task_id);
  /* A read and write at once, not a store: on x86 that waits for the task's non-temporal stores. */
  atomic_fetch_add(&loop->done, 1);
}

int ath_parallel_launch(AthanorTask task, void *closure, int num_task) {
  const AthParallel *how = ath_parallel;
  const int32_t threads = how ? how->threads : 1;
  AthTasks tasks;
  tasks.task = task;
  tasks.closure = closure;
  tasks.group = (AthanorGroup){NULL, num_task > 0 ? num_task : threads};
  atomic_init(&tasks.failed, false);
  const int32_t count = tasks.group.num_task;
  if (threads == 1 || count == 1) {
    for (int32_t i = 0; i < count && !atomic_load(&tasks.failed); i++) ath_run_task(&tasks, i);
  } else if (how->parallel_for) {
    Loop loop = {.tasks = &tasks};
    how->parallel_for(how->parallel_for_user, count, run_loop_task, &loop);
    if (atomic_load(&loop.done) != count) {
      ath_fail(ATHANOR_ERROR_RUN, "the app's parallel_for ran %d of %d tasks",
               atomic_load(&loop.done), count);
      return -1;
    }
  } else {
    ath_pool_run(&tasks, (count < threads ? count : threads) - 1, how->spin_us);
  }
  if (!atomic_load(&tasks.failed)) return 0;
  ath_set_error(tasks.error);
  return tasks.result;
}
