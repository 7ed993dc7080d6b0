/* Kernels on a GPU: their memory, their time by the driver's events, what they must not touch.
 *
 * The program itself never starts the driver, for a process that was forked by one that has can't
 * use it: each candidate's process has a context of its own, which its end, however it comes, takes
 * along with all that went wrong there. */
#include "measure.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "device.h"
#include "measure_device.h"

#define L2_CACHE_SIZE 38 /* of CUdevice_attribute */
#define NON_BLOCKING 1   /* of CUstream_flags */
#define GUARD_BYTES ((uint64_t)64 << 10)
#define GUARD_BYTE 0xC3
#define MAX_SCRATCH 16
#define LEAST_OTHER_BYTES ((uint64_t)2 << 20)
#define LONGEST_WAIT_NS ((int64_t)2 * 1000000000)

typedef struct {
  CudaPointer memory, data; /* data lies between guards in the memory */
  uint64_t size_bytes;
} DeviceBuffer;

static struct {
  const AthCudaDriver *cuda;
  int handle;
  CudaHandle stream, start, end, module;
  CudaHandle *functions;
  const MeasureCandidate *candidate;
  const MeasureBuffer *host;
  DeviceBuffer buffers[MEASURE_MAX_ARGUMENTS], scratch[MAX_SCRATCH];
  void *pointers[MEASURE_MAX_ARGUMENTS];
  CudaPointer other; /* memory that stands for the rest of the model */
  uint64_t other_bytes;
  bool has_run, is_gate_open;
} device;

/* As ath_cuda_check, without its advice about the process: this one ends anyway. */
static bool check(CudaResult result, const char *what) {
  const char *name = NULL, *text = NULL;
  if (!result) return true;
  device.cuda->error_name(result, &name);
  device.cuda->error_string(result, &text);
  ath_fail(ATHANOR_ERROR_RUN, "%s failed: %s (%s)", what, name ? name : "an unknown CUDA error",
           text ? text : "");
  return false;
}

static bool finish(const char *what) {
  return check(device.cuda->stream_wait(device.stream), what);
}

static bool copy(CudaPointer target, CudaPointer source, uint64_t size_bytes) {
  return !size_bytes || check(device.cuda->copy(target, source, size_bytes, device.stream),
                              "copying between host and device");
}

static bool start_driver(void) {
  CudaHandle context = NULL;
  device.cuda = ath_cuda_driver();
  return device.cuda && check(device.cuda->device_get(&device.handle, 0), "starting the device") &&
         check(device.cuda->context_retain(&context, device.handle), "starting the device") &&
         check(device.cuda->context_push(context), "starting the device");
}

/* ---- What the device is ----------------------------------------------------------------------- */

static bool ask_name(char *name, size_t size) {
  const AthanorImage *chosen = NULL;
  int count = 0;
  device.cuda = ath_cuda_driver();
  if (!device.cuda || !check(device.cuda->device_count(&count), "counting the devices"))
    return false;
  if (!count) return ath_set_error("the NVIDIA driver knows of no device"), false;
  return check(device.cuda->device_get(&device.handle, 0), "asking for the device") &&
         !ath_image_choose(device.handle, 0, measure_images, measure_num_images, "this program",
                           &chosen) &&
         check(device.cuda->device_name(name, (int)size, device.handle), "asking for its name");
}

static bool name_of_device(char *name, size_t size) {
  struct {
    bool is_known;
    char text[ATH_ERROR_BYTES];
  } answer = {.text = "the process that asks for it ended"};
  int pipes[2];
  if (pipe(pipes)) return ath_set_error("the system has no more pipes"), false;
  const pid_t pid = fork();
  if (pid == 0) {
    answer.is_known = ask_name(answer.text, sizeof answer.text);
    if (!answer.is_known) snprintf(answer.text, sizeof answer.text, "%s", athanor_last_error());
    _exit(write(pipes[1], &answer, sizeof answer) != sizeof answer);
  }
  close(pipes[1]);
  if (pid < 0 || read(pipes[0], &answer, sizeof answer) != sizeof answer) answer.is_known = false;
  close(pipes[0]);
  if (pid > 0) waitpid(pid, NULL, 0);
  if (!answer.is_known) ath_set_error(answer.text);
  snprintf(name, size, "%s", answer.text);
  return answer.is_known;
}

/* ---- Memory ----------------------------------------------------------------------------------- */

static uint64_t padded(uint64_t size_bytes) { return (size_bytes + 255) / 256 * 256; }

static bool allocate(DeviceBuffer *buffer, uint64_t size_bytes, const char *what) {
  /* Kernels are promised data aligned to 256 bytes, so the second guard begins behind a gap. */
  const uint64_t all_bytes = padded(size_bytes) + 2 * GUARD_BYTES;
  uint8_t *guards = malloc(all_bytes);
  if (!guards) return ath_set_error("no memory for a copy of the device's"), false;
  memset(guards, GUARD_BYTE, all_bytes);
  bool is_good = !ath_cuda_alloc(&buffer->memory, all_bytes, what) &&
                 copy(buffer->memory, (CudaPointer)guards, all_bytes) && finish("filling memory");
  free(guards);
  buffer->data = buffer->memory + GUARD_BYTES;
  buffer->size_bytes = size_bytes;
  return is_good;
}

/* Whether the bytes around the data are as they were; a sentence about `what` where not. */
static bool is_intact(const DeviceBuffer *buffer, const char *what) {
  const uint64_t behind = padded(buffer->size_bytes) - buffer->size_bytes + GUARD_BYTES;
  uint8_t *found = malloc(GUARD_BYTES + behind);
  if (!found) return ath_set_error("no memory for a copy of the device's"), false;
  bool is_good =
      copy((CudaPointer)found, buffer->memory, GUARD_BYTES) &&
      copy((CudaPointer)(found + GUARD_BYTES), buffer->data + buffer->size_bytes, behind) &&
      finish("reading the memory around a buffer");
  for (uint64_t i = 0; is_good && i < GUARD_BYTES + behind; i++) {
    if (found[i] == GUARD_BYTE) continue;
    ath_fail(ATHANOR_ERROR_RUN, "the kernel wrote outside of %s", what);
    is_good = false;
  }
  free(found);
  return is_good;
}

void *measure_device_scratch(uint32_t number, uint64_t size_bytes) {
  if (number >= MAX_SCRATCH) return ath_set_error("the kernel has too many intermediates"), NULL;
  DeviceBuffer *buffer = &device.scratch[number];
  if (!buffer->memory && !allocate(buffer, size_bytes, "an intermediate result")) return NULL;
  return (void *)buffer->data;
}

/* Other memory: as much as the model touches, twice the device's cache at most, and not so little
 * that what the kernel touches is copied in too many pieces. */
static bool make_other_memory(uint64_t evict_bytes) {
  int l2_bytes = 0;
  if (!evict_bytes) return true;
  if (!check(device.cuda->device_attribute(&l2_bytes, L2_CACHE_SIZE, device.handle),
             "asking the device for its cache"))
    return false;
  const uint64_t most = 2 * (uint64_t)l2_bytes;
  const uint64_t wanted = evict_bytes < most ? evict_bytes : most;
  device.other_bytes = wanted < LEAST_OTHER_BYTES ? LEAST_OTHER_BYTES : wanted / 2 * 2;
  return !ath_cuda_alloc(&device.other, device.other_bytes, "emptying the cache");
}

static bool begin(const MeasureCandidate *candidate, const MeasureBuffer *buffers) {
  device.candidate = candidate;
  device.host = buffers;
  if (!start_driver() ||
      !check(device.cuda->stream_create(&device.stream, NON_BLOCKING), "making a stream") ||
      !check(device.cuda->event_create(&device.start, 0), "making an event") ||
      !check(device.cuda->event_create(&device.end, 0), "making an event") ||
      !make_other_memory(candidate->evict_bytes))
    return false;
  for (int32_t i = 0; i < candidate->num_arguments; i++) {
    DeviceBuffer *buffer = &device.buffers[i];
    if (!allocate(buffer, buffers[i].size_bytes, "the kernel's buffers") ||
        !copy(buffer->data, (CudaPointer)buffers[i].data, buffer->size_bytes))
      return false;
    device.pointers[i] = (void *)buffer->data;
  }
  return finish("copying the kernel's inputs");
}

/* ---- Calls ------------------------------------------------------------------------------------ */

/* Half of the other memory onto its second half, then what the kernel's neighbours have in hand, by
 * copies from it. */
static bool set_caches(void) {
  const uint64_t half = device.other_bytes / 2;
  if (!half) return true;
  if (!copy(device.other + half, device.other, half)) return false;
  for (int pass = 0; pass < 2; pass++)
    for (int32_t i = 0; i < device.candidate->num_arguments; i++) {
      const DeviceBuffer *buffer = &device.buffers[i];
      if (device.candidate->arguments[i].role != (pass ? MEASURE_INPUT : MEASURE_OUTPUT)) continue;
      for (uint64_t at = 0; at < buffer->size_bytes; at += half) {
        const uint64_t left = buffer->size_bytes - at;
        if (!copy(device.other, buffer->data + at, left < half ? left : half)) return false;
      }
    }
  return true;
}

/* On a thread of the driver: the stream waits until the host has queued the whole call, or launches
 * of microseconds would be timed by when the host came to queue them. */
static void wait_at_gate(void *user) {
  const int64_t until = measure_now_ns() + LONGEST_WAIT_NS;
  while (!__atomic_load_n((bool *)user, __ATOMIC_ACQUIRE) && measure_now_ns() < until) sched_yield();
}

static bool queue_call(MeasureCall kernel) {
  /* The first call loads the code, which may wait for the device: no gate then. */
  if (device.has_run &&
      !check(device.cuda->launch_host(device.stream, wait_at_gate, &device.is_gate_open),
             "queuing a host function"))
    return false;
  if (!check(device.cuda->event_record(device.start, device.stream), "recording an event"))
    return false;
  ath_clear_error();
  const int result = kernel(device.pointers);
  if (result && !*athanor_last_error())
    ath_fail(ATHANOR_ERROR_RUN, "the kernel returned %d", result);
  return !result && check(device.cuda->event_record(device.end, device.stream), "recording an event");
}

static int64_t call(MeasureCall kernel) {
  float milliseconds = 0;
  device.is_gate_open = false;
  const bool is_queued = queue_call(kernel);
  __atomic_store_n(&device.is_gate_open, true, __ATOMIC_RELEASE);
  if (!is_queued || !finish("the kernel")) return -1;
  device.has_run = true;
  if (!check(device.cuda->event_elapsed(&milliseconds, device.start, device.end),
             "reading an event's time"))
    return -1;
  return (int64_t)((double)milliseconds * 1e6 + 0.5);
}

static int launch(AthanorRun *run, uint32_t function, const int64_t extents[6],
                  uint32_t shared_bytes, void **arguments) {
  const MeasureDeviceCode *code = run->session;
  if (!device.functions) {
    device.functions = calloc(code->num_functions + 1, sizeof *device.functions);
    if (!device.functions) return ath_set_error("no memory for the kernel's functions"), -1;
    if (ath_image_load(device.handle, 0, code->images, code->num_images, "this program",
                       &device.module) ||
        ath_image_functions(device.module, code->functions, code->num_functions, device.functions))
      return -1;
  }
  for (int axis = 0; axis < 6; axis++)
    if (extents[axis] <= 0) return 0;
  const CudaResult result = device.cuda->launch(
      device.functions[function], (unsigned)extents[0], (unsigned)extents[1], (unsigned)extents[2],
      (unsigned)extents[3], (unsigned)extents[4], (unsigned)extents[5], shared_bytes, device.stream,
      arguments, NULL);
  return check(result, code->functions[function].name) ? 0 : -1;
}

const AthanorServices measure_device_services = {
    .abi_version = ATHANOR_ABI_VERSION, .size_bytes = sizeof(AthanorServices),
    .device_launch = launch};

/* ---- What came out ---------------------------------------------------------------------------- */

/* Whether an input on the device is still that on the host. */
static bool is_unchanged(int32_t index) {
  const MeasureBuffer *host = &device.host[index];
  uint8_t *found = malloc(host->size_bytes + 1);
  if (!found) return ath_set_error("no memory for a copy of the device's"), false;
  bool is_good = copy((CudaPointer)found, device.buffers[index].data, host->size_bytes) &&
                 finish("reading an input");
  if (is_good && memcmp(found, host->data, host->size_bytes)) {
    ath_fail(ATHANOR_ERROR_RUN, "the kernel wrote into buffer %d (%s), which it may only read",
             index,
             device.candidate->arguments[index].role == MEASURE_INPUT ? "input" : "constant");
    is_good = false;
  }
  free(found);
  return is_good;
}

static bool fetch(void) {
  char name[48];
  for (int32_t i = 0; i < device.candidate->num_arguments; i++) {
    const DeviceBuffer *buffer = &device.buffers[i];
    snprintf(name, sizeof name, "buffer %d", i);
    if (!is_intact(buffer, name)) return false;
    if (device.candidate->arguments[i].role != MEASURE_OUTPUT) {
      if (!is_unchanged(i)) return false;
    } else if (!copy((CudaPointer)device.host[i].data, buffer->data, buffer->size_bytes)) {
      return false;
    }
  }
  for (int i = 0; i < MAX_SCRATCH; i++)
    if (device.scratch[i].memory && !is_intact(&device.scratch[i], "its intermediate results"))
      return false;
  return finish("reading the kernel's outputs");
}

const MeasureDevice measure_cuda = {name_of_device, begin, set_caches, call, fetch};
