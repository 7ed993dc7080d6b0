/* Drives the processes of candidates: one command a call, so that they can take turns. */
#include "measure.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define STEP_MS 50

typedef struct {
  pid_t pid; /* 0: ended */
  int commands, events;
  int64_t used_ns; /* while it was its turn */
  int64_t warm_ns; /* of these until it was ready */
  const MeasureCandidate *candidate;
  MeasureResult *result;
} Process;

/* Outputs of the reference that was run last; candidates of one workload follow one another. */
static struct {
  const MeasureCandidate *candidate;
  uint8_t *outputs[MEASURE_MAX_ARGUMENTS];
  const char *error;
  char sentence[400];
} reference;

static void fail(Process *process, const char *error, const char *sentence) {
  if (process->result->error) return;
  process->result->error = error;
  process->result->count = 0;
  snprintf(process->result->sentence, sizeof process->result->sentence, "%s", sentence);
}

static void end(Process *process) {
  if (!process->pid) return;
  kill(process->pid, SIGKILL);
  waitpid(process->pid, NULL, 0);
  close(process->commands);
  close(process->events);
  process->pid = 0;
}

/* The next message of a process; false where it ended or its time did, and it failed. */
static bool hear(Process *process, const MeasureOptions *options, MeasureMessage *message) {
  struct pollfd events = {.fd = process->events, .events = POLLIN};
  int ready = 0;
  /* In steps: time in which the machine slept, or somebody stopped all of us, does not count. */
  while (!ready && process->used_ns < options->timeout_ns) {
    const int64_t started = measure_now_ns();
    ready = poll(&events, 1, STEP_MS);
    const int64_t waited_ns = measure_now_ns() - started;
    const int64_t most_ns = 2 * (int64_t)STEP_MS * 1000000;
    process->used_ns += waited_ns < most_ns ? waited_ns : most_ns;
  }
  char sentence[200];
  if (ready <= 0) {
    snprintf(sentence, sizeof sentence, "the kernel was not done after %.3g s",
             (double)options->timeout_ns * 1e-9);
    fail(process, "timeout", sentence);
  } else if (read(process->events, message, sizeof *message) != sizeof *message) {
    int status = 0;
    waitpid(process->pid, &status, 0);
    snprintf(sentence, sizeof sentence, "the kernel's process ended by %s %d",
             WIFSIGNALED(status) ? "signal" : "exit code",
             WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    fail(process, "crash", sentence);
  } else if (message->event == MEASURE_CRASHED) {
    fail(process, "crash", message->sentence);
  } else if (message->event == MEASURE_WRONG_RESULT) {
    fail(process, "wrong result", message->sentence);
  } else if (message->event == MEASURE_DEVICE_LOST) {
    fail(process, "device lost", message->sentence);
  } else {
    return true;
  }
  end(process);
  return false;
}

/* Forks; in the child returns 0. */
static pid_t start(Process *process, int *commands, int *events) {
  int down[2], up[2];
  if (pipe(down)) {
    fail(process, "device lost", "the system has no more pipes");
    return -1;
  }
  if (pipe(up)) {
    close(down[0]), close(down[1]);
    fail(process, "device lost", "the system has no more pipes");
    return -1;
  }
  const pid_t pid = fork();
  if (pid == 0) {
    close(down[1]), close(up[0]);
    *commands = down[0], *events = up[1];
    return 0;
  }
  close(down[0]), close(up[1]);
  process->commands = down[1], process->events = up[0];
  process->pid = pid < 0 ? 0 : pid;
  process->used_ns = 0;
  if (pid > 0) return pid;
  close(down[1]), close(up[0]);
  fail(process, "device lost", "the system has no more processes");
  return -1;
}

static void forget_reference(void) {
  if (!reference.candidate) return;
  for (int32_t i = 0; i < reference.candidate->num_arguments; i++)
    if (reference.outputs[i])
      munmap(reference.outputs[i], measure_size_bytes(&reference.candidate->arguments[i]));
  memset(&reference, 0, sizeof reference);
}

/* Runs the candidate's reference unless its outputs are there. */
static void run_reference(const MeasureCandidate *candidate, const MeasureOptions *options) {
  const MeasureCandidate *last = reference.candidate;
  if (last && last->reference == candidate->reference && last->seed == candidate->seed) return;
  forget_reference();
  reference.candidate = candidate;
  MeasureResult *result = calloc(1, sizeof *result);
  if (!result) abort();
  Process process = {.candidate = candidate, .result = result};
  for (int32_t i = 0; i < candidate->num_arguments; i++) {
    const uint64_t size_bytes = measure_size_bytes(&candidate->arguments[i]);
    if (candidate->arguments[i].role != MEASURE_OUTPUT || !size_bytes) continue;
    void *made = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (made == MAP_FAILED) fail(&process, "crash", "there is no memory for expected results");
    else reference.outputs[i] = made;
  }
  int commands, events;
  MeasureMessage message;
  if (!result->error && start(&process, &commands, &events) == 0)
    measure_reference_child(candidate, options, reference.outputs, events);
  if (!result->error && hear(&process, options, &message)) end(&process);
  reference.error = result->error;
  snprintf(reference.sentence, sizeof reference.sentence, "the reference failed: %.370s",
           result->sentence);
  free(result);
}

static bool is_done(const Process *process, const MeasureOptions *options, int64_t ns) {
  const int32_t count = process->result->count;
  return count >= options->repeats || ns > options->limit_ns ||
         (count >= MEASURE_MIN_REPEATS &&
          process->used_ns - process->warm_ns > options->budget_ns);
}

/* Lets a process time one call. */
static void take_turn(Process *process, const MeasureOptions *options) {
  MeasureMessage message;
  MeasureResult *result = process->result;
  if (write(process->commands, "t", 1) != 1 && !hear(process, options, &message)) return;
  if (!hear(process, options, &message)) return;
  result->ns[result->count++] = message.value;
  if (!is_done(process, options, message.value)) return;
  if (write(process->commands, "f", 1) == 1 && hear(process, options, &message)) end(process);
}

int32_t measure_group_end(int32_t first, const MeasureOptions *options) {
  int32_t end = first + 1;
  while (options->interleaved && end < measure_num_candidates &&
         measure_candidates[end].group == measure_candidates[first].group)
    end++;
  return end;
}

/* One group on a machine at a time, whichever job or user it is of: kernels that run at once would
 * measure one another. Where there is no such file, nobody waits. */
static int take_machine(void) {
  static const char path[] = "/tmp/athanor-measure.lock";
  int lock = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (lock < 0) lock = open(path, O_RDONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
  if (lock >= 0) flock(lock, LOCK_EX);
  return lock;
}

void measure_group(int32_t first, int32_t count, const MeasureOptions *options,
                   MeasureResult *results) {
  const int lock = take_machine();
  Process *processes = calloc((size_t)count, sizeof *processes);
  if (!processes) abort();
  for (int32_t i = 0; i < count; i++) {
    const MeasureCandidate *candidate = &measure_candidates[first + i];
    Process *process = &processes[i];
    *process = (Process){.candidate = candidate, .result = &results[i]};
    results[i].count = 0;
    results[i].error = NULL;
    uint8_t *const *expected = NULL;
    if (candidate->reference >= 0) {
      run_reference(candidate, options);
      expected = reference.outputs;
      if (reference.error) fail(process, reference.error, reference.sentence);
    }
    int commands, events;
    MeasureMessage message;
    if (!results[i].error && start(process, &commands, &events) == 0)
      measure_child(candidate, options, expected, commands, events);
    if (!results[i].error && hear(process, options, &message))
      process->warm_ns = process->used_ns;
  }
  for (bool is_left = true; is_left;) {
    is_left = false;
    for (int32_t i = 0; i < count; i++) {
      if (processes[i].pid) take_turn(&processes[i], options);
      is_left = is_left || processes[i].pid;
    }
  }
  free(processes);
  if (lock < 0) return;
  close(lock);
  usleep(500); /* or the next group would have it again before another job wakes up */
}
