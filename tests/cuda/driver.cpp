// A libcuda.so.1 for tests, in host memory: device memory that only kernels and copies may touch,
// streams whose work waits until somebody waits for it, kernels that g++ has compiled for the host
// (emulation.py), or cubins, whose launches are only recorded.
#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))
typedef int Result;

namespace {

const size_t kRegion = size_t(8) << 30, kGuard = 256;
uint8_t *region;
size_t used;                       // bytes of the region that were ever handed out
std::map<size_t, size_t> live;     // offset -> size
std::string broken;                // what a test should hear of
int capability = 90, devices = 1, fails_with = 0, contexts = 0, events = 0, graphs = 0;
std::string fails_in;
std::vector<std::string> log_lines;

struct Function {
  std::string name;
  int (*run)(void **, const unsigned *, unsigned);  // null: of a cubin
  const int *sizes;                                 // of the parameters, ended by 0
};
struct Module {
  void *library;
  std::map<std::string, std::unique_ptr<Function>> functions;
};
typedef std::function<void()> Work;
struct Graph { std::deque<Work> work; };
struct Stream {
  std::deque<Work> work;
  Graph *captures = nullptr;
};
// What a recorded event is about: the work before it on a stream. `at` is when the device came there.
struct Mark {
  Stream *stream;
  bool passed = false;
  double at = 0;
};
struct Event { std::shared_ptr<Mark> mark; };
Stream default_stream, thread_stream;
std::vector<Stream *> streams{&default_stream, &thread_stream};
double clock_ms;  // of the device: each kernel takes a millisecond, each copy a tenth

Stream *of(void *stream) {
  if (uintptr_t(stream) <= 1) return &default_stream;
  return uintptr_t(stream) == 2 ? &thread_stream : static_cast<Stream *>(stream);
}

void allow(bool yes) {
  if (used) mprotect(region, used, yes ? PROT_READ | PROT_WRITE : PROT_NONE);
}

void check_guards() {
  for (auto &[offset, size] : live)
    for (size_t i = 0; i < kGuard; i++)
      if (region[offset + size + i] != 0xA5 && broken.empty())
        broken = "something wrote behind a device allocation of " + std::to_string(size) + " bytes";
}

int draining;

// Does a stream's work, or as much of it as brings it to a mark.
void drain(Stream *stream, const Mark *until = nullptr) {
  draining++;
  while (!stream->work.empty() && !(until && until->passed)) {
    Work work = std::move(stream->work.front());
    stream->work.pop_front();
    allow(true);
    work();
  }
  if (--draining) return;  // for another stream's work, which goes on
  allow(true);
  check_guards();
  allow(false);
}

void reach(const std::shared_ptr<Mark> &mark) {
  if (mark && !mark->passed) drain(mark->stream, mark.get());
}

void enqueue(Stream *stream, Work work) {
  (stream->captures ? stream->captures->work : stream->work).push_back(std::move(work));
}

bool is_device(uintptr_t address) {
  return address - reinterpret_cast<uintptr_t>(region) < kRegion;
}

// The result a test has asked for in place of a call's own.
Result entered(const char *name) {
  if (fails_in == name && fails_with) return fails_with;
  const char *fails = getenv("ATHANOR_FAKE_FAILURE");  // of a process that no test can call
  return fails && std::string(fails) == name ? 999 : 0;
}

#define ENTER(name)                            \
  if (Result failure = entered(name)) return failure

}  // namespace

// What tests set and ask.
API void fake_reset(int capability_, int devices_) {
  capability = capability_, devices = devices_, fails_with = 0, fails_in.clear();
  broken.clear(), log_lines.clear();
}
API void fake_fail(const char *function, int result) { fails_in = function, fails_with = result; }
API const char *fake_broken() { return broken.c_str(); }
API int fake_log_size() { return int(log_lines.size()); }
API const char *fake_log(int i) { return log_lines[i].c_str(); }
API int64_t fake_allocated() {
  int64_t total = 0;
  for (auto &[offset, size] : live) total += int64_t(size);
  return total;
}
API int fake_contexts() { return contexts; }
API int fake_events() { return events; }
API int fake_graphs() { return graphs; }

API Result cuInit(unsigned) {
  ENTER("cuInit");
  if (!region)
    region = static_cast<uint8_t *>(mmap(nullptr, kRegion, PROT_NONE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  return region == MAP_FAILED ? 2 : 0;
}
API Result cuGetErrorName(Result error, const char **text) {
  *text = error == 2 ? "CUDA_ERROR_OUT_OF_MEMORY"
          : error == 209 ? "CUDA_ERROR_NO_BINARY_FOR_GPU"
          : error == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_UNKNOWN";
  return 0;
}
API Result cuGetErrorString(Result error, const char **text) {
  *text = error == 2 ? "out of memory" : error == 700 ? "an illegal memory access was encountered"
          : "as the test has asked";
  return 0;
}
API Result cuDeviceGetCount(int *count) { return *count = devices, entered("cuDeviceGetCount"); }
API Result cuDeviceGet(int *device, int ordinal) {
  if (ordinal < 0 || ordinal >= devices) return 101;
  return *device = ordinal, entered("cuDeviceGet");
}
API Result cuDeviceGetAttribute(int *value, int attribute, int) {
  switch (attribute) {
    case 13: *value = 1000000; break;  // 1 GHz
    case 16: *value = 10; break;       // multiprocessors
    case 36: *value = 1000000; break;
    case 37: *value = 1024; break;  // bits: 256 GB/s
    case 38: *value = 1 << 20; break;
    case 75: *value = capability / 10; break;
    case 76: *value = capability % 10; break;
    default: broken = "a device attribute that nobody knows", *value = 0;
  }
  return 0;
}
API Result cuDevicePrimaryCtxRetain(void **context, int device) {
  ENTER("cuDevicePrimaryCtxRetain");
  *context = reinterpret_cast<void *>(uintptr_t(device) + 1);
  contexts++;
  return 0;
}
API Result cuDevicePrimaryCtxRelease_v2(int) { return contexts--, 0; }
static int depth;
API Result cuCtxPushCurrent_v2(void *) { return depth++, 0; }
API Result cuCtxPopCurrent_v2(void **context) {
  if (depth-- <= 0 && broken.empty()) broken = "more contexts popped than pushed";
  *context = nullptr;
  return 0;
}
API int fake_depth() { return depth; }

API Result cuMemAlloc_v2(uintptr_t *pointer, size_t size) {
  ENTER("cuMemAlloc_v2");
  if (depth <= 0 && broken.empty()) broken = "memory without a current context";
  for (Stream *stream : streams)
    if (stream->captures && broken.empty()) broken = "memory taken while a graph is captured";
  if (!size) return 1;
  size_t offset = 0;  // the first hole that is large enough
  for (auto &[start, length] : live) {
    if (start - offset >= size + kGuard) break;
    offset = (start + length + kGuard + 255) / 256 * 256;
  }
  if (offset + size + kGuard > kRegion) return 2;
  allow(true);
  const size_t end = (offset + size + kGuard + 4095) / 4096 * 4096;
  if (end > used) used = end;
  allow(true);
  memset(region + offset, 0xFF, size);  // NaN, so that what nobody wrote is seen
  memset(region + offset + size, 0xA5, kGuard);
  allow(false);
  live[offset] = size;
  *pointer = reinterpret_cast<uintptr_t>(region + offset);
  return 0;
}
API Result cuMemFree_v2(uintptr_t pointer) {
  for (Stream *stream : streams) drain(stream);  // freeing waits for the device
  const size_t offset = pointer - reinterpret_cast<uintptr_t>(region);
  if (!live.erase(offset)) return broken = "a pointer freed that is none", 1;
  return 0;
}
API Result cuMemcpyAsync(uintptr_t target, uintptr_t source, size_t size, void *stream) {
  ENTER("cuMemcpyAsync");
  const bool to = is_device(target), from = is_device(source);
  char text[96];
  snprintf(text, sizeof text, "copy %s %zu on %p", to ? from ? "DD" : "HD" : from ? "DH" : "HH", size,
           stream);
  log_lines.push_back(text);
  if (from || !to) {
    enqueue(of(stream), [=] { clock_ms += 0.1, memcpy((void *)target, (void *)source, size); });
    return 0;
  }
  // Pageable memory is read at once; a graph would read it again each time.
  if (of(stream)->captures && broken.empty()) broken = "a copy from the host in a graph";
  auto data = std::make_shared<std::vector<uint8_t>>((uint8_t *)source, (uint8_t *)source + size);
  Stream *s = of(stream);
  if (s->captures)  // a graph reads the host's memory each time
    enqueue(s, [=] { memcpy((void *)target, (void *)source, size); });
  else
    enqueue(s, [=] { memcpy((void *)target, data->data(), size); });
  return 0;
}

API Result cuModuleLoadData(void **module, const void *image) {
  ENTER("cuModuleLoadData");
  auto header = static_cast<const Elf64_Ehdr *>(image);
  auto made = std::make_unique<Module>();
  made->library = nullptr;
  log_lines.push_back("module");
  if (memcmp(header->e_ident, ELFMAG, SELFMAG) == 0 && header->e_machine == EM_X86_64) {
    char path[] = "/tmp/athanor-emulated-XXXXXX";
    const int file = mkstemp(path);
    const size_t size = header->e_shoff + size_t(header->e_shnum) * header->e_shentsize;
    if (file < 0 || write(file, image, size) != ssize_t(size)) return 999;
    close(file);
    made->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!made->library) fprintf(stderr, "%s\n", dlerror());
    unlink(path);
    if (!made->library) return 209;
  }
  *module = made.release();
  return 0;
}
API Result cuModuleUnload(void *module) {
  auto *m = static_cast<Module *>(module);
  if (m->library) dlclose(m->library);
  delete m;
  return 0;
}
API Result cuModuleGetFunction(void **function, void *module, const char *name) {
  ENTER("cuModuleGetFunction");
  auto *m = static_cast<Module *>(module);
  auto made = std::make_unique<Function>();
  made->name = name;
  made->run = nullptr;
  made->sizes = nullptr;
  if (m->library) {
    *(void **)&made->run = dlsym(m->library, (std::string("emulate_") + name).c_str());
    made->sizes = (const int *)dlsym(m->library, (std::string("sizes_") + name).c_str());
    if (!made->run) return 500;
  }
  *function = made.get();
  m->functions[name] = std::move(made);
  return 0;
}
API Result cuFuncSetAttribute(void *, int attribute, int value) {
  return attribute == 8 && value > 232448 ? 1 : 0;
}
API Result cuStreamCreate(void **stream, unsigned) {
  streams.push_back(new Stream);
  return *stream = streams.back(), 0;
}
API Result cuStreamDestroy_v2(void *stream) {
  drain(of(stream));
  streams.erase(std::find(streams.begin(), streams.end(), of(stream)));
  return delete of(stream), 0;
}
API Result cuDeviceGetName(char *name, int size, int) {
  return snprintf(name, size_t(size), "test device"), 0;
}
API Result cuDeviceTotalMem_v2(size_t *size, int) { return *size = kRegion, 0; }
API Result cuMemGetInfo_v2(size_t *free_bytes, size_t *size) {
  *size = kRegion, *free_bytes = kRegion;
  for (auto &[offset, length] : live) *free_bytes -= length;
  return 0;
}
API Result cuLaunchHostFunc(void *stream, void (*function)(void *), void *user) {
  ENTER("cuLaunchHostFunc");
  log_lines.push_back("host function");
  enqueue(of(stream), [=] { function(user); });
  return 0;
}
API Result cuStreamWaitEvent(void *stream, void *event, unsigned) {
  ENTER("cuStreamWaitEvent");
  char text[96];
  snprintf(text, sizeof text, "event awaited on %p", stream);
  log_lines.push_back(text);
  enqueue(of(stream), [mark = static_cast<Event *>(event)->mark] { reach(mark); });
  return 0;
}
API Result cuEventCreate(void **event, unsigned) {
  ENTER("cuEventCreate");
  events++;
  return *event = new Event, 0;
}
API Result cuEventDestroy_v2(void *event) {
  events--;
  return delete static_cast<Event *>(event), 0;
}
API Result cuEventRecord(void *event, void *stream) {
  ENTER("cuEventRecord");
  char text[96];
  snprintf(text, sizeof text, "event recorded on %p", stream);
  log_lines.push_back(text);
  auto mark = std::make_shared<Mark>();
  mark->stream = of(stream);
  static_cast<Event *>(event)->mark = mark;
  enqueue(of(stream), [=] { mark->passed = true, mark->at = clock_ms; });
  return 0;
}
API Result cuEventSynchronize(void *event) {
  ENTER("cuEventSynchronize");
  log_lines.push_back("wait for event");
  reach(static_cast<Event *>(event)->mark);
  return broken.empty() ? 0 : 700;
}
API Result cuEventElapsedTime(float *milliseconds, void *start, void *end) {
  ENTER("cuEventElapsedTime");
  auto from = static_cast<Event *>(start)->mark, to = static_cast<Event *>(end)->mark;
  if (!from || !to) return 400;
  if (!from->passed || !to->passed) return 600;
  return *milliseconds = float(to->at - from->at), 0;
}
API Result cuStreamSynchronize(void *stream) {
  ENTER("cuStreamSynchronize");
  log_lines.push_back("wait");
  if (of(stream)->captures) return 900;
  drain(of(stream));
  return broken.empty() ? 0 : 700;
}
API Result cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                          unsigned by, unsigned bz, unsigned shared, void *stream, void **arguments,
                          void **) {
  ENTER("cuLaunchKernel");
  auto *f = static_cast<Function *>(function);
  char text[512];
  snprintf(text, sizeof text, "launch %s %u %u %u %u %u %u %u on %p", f->name.c_str(), gx, gy, gz,
           bx, by, bz, shared, stream);
  log_lines.push_back(text);
  if (!gx || !gy || !gz || bx * by * bz == 0 || bx * by * bz > 1024 || gy > 65535 || gz > 65535 ||
      bz > 64 || shared > 232448)
    return 1;
  if (!f->run) return 0;
  auto data = std::make_shared<std::vector<uint64_t>>();
  for (int i = 0; f->sizes[i]; i++) {
    uint64_t value = 0;
    memcpy(&value, arguments[i], size_t(abs(f->sizes[i])));
    if (f->sizes[i] < 0 && value && !is_device(value))  // negative: a pointer
      return broken = f->name + " was given a pointer to the host's memory", 700;
    data->push_back(value);
  }
  const unsigned extents[] = {gx, gy, gz, bx, by, bz};
  std::vector<unsigned> sizes(extents, extents + 6);
  // A millisecond; or what tests of tuning want, a microsecond for each block.
  const bool by_blocks = getenv("ATHANOR_FAKE_CLOCK");
  enqueue(of(stream), [=] {
    clock_ms += by_blocks ? 0.001 * gx * gy * gz : 1;
    std::vector<void *> pointers;
    for (auto &value : *data) pointers.push_back(&value);
    const int result = f->run(pointers.data(), sizes.data(), shared);
    if (result) broken = f->name + (result == -2 ? ": misaligned access" : ": threads wait forever");
  });
  return 0;
}

API Result cuStreamBeginCapture_v2(void *stream, int) {
  ENTER("cuStreamBeginCapture_v2");
  if (uintptr_t(stream) <= 1 || of(stream)->captures) return 900;
  of(stream)->captures = new Graph;
  return 0;
}
API Result cuStreamEndCapture(void *stream, void **graph) {
  log_lines.push_back("captured " + std::to_string(of(stream)->captures->work.size()));
  *graph = of(stream)->captures;
  of(stream)->captures = nullptr;
  return 0;
}
API Result cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long) {
  ENTER("cuGraphInstantiateWithFlags");
  graphs++;
  *executable = new Graph(*static_cast<Graph *>(graph));
  return 0;
}
API Result cuGraphLaunch(void *executable, void *stream) {
  ENTER("cuGraphLaunch");
  log_lines.push_back("graph");
  for (auto &work : static_cast<Graph *>(executable)->work) of(stream)->work.push_back(work);
  return 0;
}
API Result cuGraphExecDestroy(void *executable) { return graphs--, delete static_cast<Graph *>(executable), 0; }
API Result cuGraphDestroy(void *graph) { return delete static_cast<Graph *>(graph), 0; }
