/* The process of one candidate: it can crash, hang or write anywhere, and costs itself alone. */
#include "measure.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/* A GPU's clocks rise under load: calls of so long come before those that are timed. */
#define WARM_NS ((int64_t)20 * 1000000)

static struct {
  const MeasureCandidate *candidate;
  MeasureBuffer buffers[MEASURE_MAX_ARGUMENTS];
  void *pointers[MEASURE_MAX_ARGUMENTS];
  AthParallel parallel;
  int events;
} child;

int64_t measure_now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void tell(MeasureEvent event, int64_t value, const char *sentence) {
  MeasureMessage message = {.event = event, .value = value};
  snprintf(message.sentence, sizeof message.sentence, "%s", sentence);
  if (write(child.events, &message, sizeof message) != sizeof message) _exit(1);
}

static _Noreturn void give_up(MeasureEvent event, const char *sentence) {
  tell(event, 0, sentence);
  _exit(0); /* not exit: the pool's threads may be inside the kernel */
}

static const char *role_name(int32_t index) {
  static const char *const names[] = {"input", "constant", "output"};
  return names[child.candidate->arguments[index].role];
}

/* Formats in a signal handler: what it interrupts is a kernel, which formats nothing. */
static void on_fault(int number, siginfo_t *info, void *context) {
  (void)context;
  char sentence[400];
  static const char *const places[] = {"before the start of", "inside of", "past the end of"};
  if (number == SIGSEGV || number == SIGBUS) {
    for (int32_t i = 0; i < child.candidate->num_arguments; i++) {
      const int side = measure_side(&child.buffers[i], info->si_addr);
      if (side == 2) continue;
      if (side)
        snprintf(sentence, sizeof sentence, "the kernel read or wrote %s buffer %d (%s)",
                 places[side + 1], i, role_name(i));
      else
        snprintf(sentence, sizeof sentence, "the kernel wrote into buffer %d (%s), which it may "
                 "only read", i, role_name(i));
      give_up(MEASURE_CRASHED, sentence);
    }
    const int side = measure_scratch_side(info->si_addr);
    if (side != 2) {
      snprintf(sentence, sizeof sentence, "the kernel read or wrote %s its scratch memory",
               places[side + 1]);
      give_up(MEASURE_CRASHED, sentence);
    }
  }
  /* Not strsignal: it translates, and so allocates. */
  const char *name = number == SIGSEGV   ? "SIGSEGV: memory that is not its own"
                     : number == SIGBUS  ? "SIGBUS: memory that is not there"
                     : number == SIGILL  ? "SIGILL: an instruction that this processor has not"
                     : number == SIGFPE  ? "SIGFPE: a division by zero"
                                         : "SIGABRT";
  snprintf(sentence, sizeof sentence, "the kernel was ended by %s", name);
  give_up(MEASURE_CRASHED, sentence);
}

static void watch_faults(void) {
  /* A stack of its own, for the fault may be the overflow of the stack; of the launching thread
   * only: a worker whose stack overflows ends the process without a sentence. */
  static uint8_t stack[64 << 10];
  const stack_t alternative = {.ss_sp = stack, .ss_size = sizeof stack};
  sigaltstack(&alternative, NULL);
  struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
    sigaction(signals[i], &action, NULL);
}

static void prepare(const MeasureCandidate *candidate, const MeasureOptions *options, int events) {
  prctl(PR_SET_PDEATHSIG, SIGKILL); /* the program's end is its processes' end */
  setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
  child.candidate = candidate;
  child.events = events;
  watch_faults();
  for (int32_t i = 0; i < candidate->num_arguments; i++) {
    const MeasureArgument *argument = &candidate->arguments[i];
    MeasureBuffer *buffer = &child.buffers[i];
    if (!measure_allocate(buffer, argument))
      give_up(MEASURE_CRASHED, "there is no memory for the kernel's buffers");
    child.pointers[i] = buffer->data;
    if (argument->role == MEASURE_OUTPUT) {
      measure_spoil(buffer->data, buffer->size_bytes);
    } else {
      measure_fill(argument, buffer->data, candidate->seed, i);
      measure_protect(buffer, false);
    }
  }
  if (measure_device) {
    if (!measure_device->begin(candidate, child.buffers))
      give_up(MEASURE_DEVICE_LOST, athanor_last_error());
    return;
  }
  /* Spinning as in a session. */
  child.parallel = (AthParallel){.threads = options->threads, .spin_us = 50};
  if (options->threads > 1) ath_pool_retain(options->threads - 1);
}

static int64_t call(MeasureCall kernel) {
  if (measure_device) {
    const int64_t device_ns = measure_device->call(kernel);
    if (device_ns < 0) give_up(MEASURE_CRASHED, athanor_last_error());
    return device_ns;
  }
  const size_t depth = ath_workspace_depth();
  ath_parallel = &child.parallel;
  const int64_t started = measure_now_ns();
  const int result = kernel(child.pointers);
  const int64_t ns = measure_now_ns() - started;
  ath_workspace_reset(depth);
  if (!result) return ns;
  char sentence[400];
  snprintf(sentence, sizeof sentence, "the kernel returned %d%s%.300s", result,
           *athanor_last_error() ? ": " : "", athanor_last_error());
  give_up(MEASURE_CRASHED, sentence);
}

static void set_caches(void) {
  if (!measure_device) measure_set_caches(child.candidate, child.buffers);
  else if (!measure_device->set_caches()) give_up(MEASURE_CRASHED, athanor_last_error());
}

/* Also brings outputs from the device. */
static void check_bounds(void) {
  char sentence[200];
  if (measure_device && !measure_device->fetch()) give_up(MEASURE_CRASHED, athanor_last_error());
  for (int32_t i = 0; i < child.candidate->num_arguments; i++) {
    if (measure_is_intact(&child.buffers[i])) continue;
    snprintf(sentence, sizeof sentence, "the kernel wrote outside of buffer %d (%s)", i,
             role_name(i));
    give_up(MEASURE_CRASHED, sentence);
  }
  if (!measure_scratch_is_intact())
    give_up(MEASURE_CRASHED, "the kernel wrote outside of its scratch memory");
}

static void check_outputs(uint8_t *const *expected) {
  check_bounds();
  for (int32_t i = 0; expected && i < child.candidate->num_arguments; i++) {
    char difference[300], sentence[400];
    const MeasureArgument *argument = &child.candidate->arguments[i];
    if (argument->role != MEASURE_OUTPUT) continue;
    if (measure_compare(argument, child.buffers[i].data, expected[i], difference,
                        sizeof difference))
      continue;
    snprintf(sentence, sizeof sentence, "buffer %d (output): %s", i, difference);
    give_up(MEASURE_WRONG_RESULT, sentence);
  }
}

_Noreturn void measure_child(const MeasureCandidate *candidate, const MeasureOptions *options,
                             uint8_t *const *expected, int commands, int events) {
  prepare(candidate, options, events);
  measure_guard_scratch(true);
  call(candidate->call);
  check_outputs(expected);
  measure_guard_scratch(false);
  for (int32_t i = 0; i < candidate->num_arguments; i++)
    if (candidate->arguments[i].role == MEASURE_INPUT) measure_protect(&child.buffers[i], true);
  /* Once more, for what the first call has made: scratch memory, pages, predictions. */
  const int64_t warm_ns = measure_now_ns() + (measure_device ? WARM_NS : 0);
  do {
    set_caches();
    call(candidate->call);
  } while (measure_now_ns() < warm_ns);
  tell(MEASURE_READY, 0, "");
  char command;
  while (read(commands, &command, 1) == 1) {
    if (command == 'f') {
      check_outputs(expected);
      give_up(MEASURE_FINISHED, "");
    }
    /* Others have had their turn since this kernel's last call. */
    if (options->interleaved) call(candidate->call);
    set_caches();
    tell(MEASURE_TIMED, call(candidate->call), "");
  }
  _exit(1);
}

_Noreturn void measure_reference_child(const MeasureCandidate *candidate,
                                       const MeasureOptions *options, uint8_t *const *expected,
                                       int events) {
  prepare(candidate, options, events);
  measure_guard_scratch(true);
  call(measure_references[candidate->reference]);
  check_bounds();
  for (int32_t i = 0; i < candidate->num_arguments; i++)
    if (candidate->arguments[i].role == MEASURE_OUTPUT)
      memcpy(expected[i], child.buffers[i].data, child.buffers[i].size_bytes);
  give_up(MEASURE_FINISHED, "");
}
