/* The code of an artifact: loading it, starting it, and what the loader offers it. */
#include "internal.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void *service_output(AthanorRun *run, int32_t index, int32_t ndim, const int64_t *shape) {
  return ath_session_output(run->session, index, ndim, shape);
}

static void *service_run_alloc(AthanorRun *run, uint64_t size_bytes) {
  return ath_block_alloc(ath_session_blocks(run->session), size_bytes);
}

static void service_run_free(AthanorRun *run, void *pointer) {
  ath_block_free(ath_session_blocks(run->session), pointer);
}

static int service_device_launch(AthanorRun *run, uint32_t function, const int64_t extents[6],
                                 uint32_t shared_bytes, void **arguments) {
  return ath_session_launch(run->session, function, extents, shared_bytes, arguments);
}

static int service_device_copy(AthanorRun *run, void *target, const void *source,
                               uint64_t size_bytes, int to_host) {
  return ath_session_copy(run->session, target, source, size_bytes, to_host);
}

static void *service_device_alloc(AthanorRun *run, uint64_t size_bytes) {
  return ath_session_device_alloc(run->session, size_bytes);
}

static void service_device_free(AthanorRun *run, void *pointer) {
  ath_session_device_free(run->session, pointer);
}

static int service_device_mark(AthanorRun *run, AthanorEvents *events, const AthanorEvent *ended) {
  return ath_session_mark(run->session, events, ended);
}

static const AthanorServices services = {
    .abi_version = ATHANOR_ABI_VERSION,
    .size_bytes = sizeof(AthanorServices),
    .parallel_launch = ath_parallel_launch,
    .workspace_alloc = ath_workspace_alloc,
    .workspace_free = ath_workspace_free,
    .output = service_output,
    .set_error = ath_set_error,
    .run_alloc = service_run_alloc,
    .run_free = service_run_free,
    .device_launch = service_device_launch,
    .device_copy = service_device_copy,
    .device_alloc = service_device_alloc,
    .device_free = service_device_free,
    .device_mark = service_device_mark,
};

const AthanorServices *ath_services(void) { return &services; }

/* A spelling of the real path that no dlopen of this process has used. The dynamic linker takes a
 * name it knows for the library it knows, although the file may have been replaced since: the new
 * weights would run with the old code. The number is written into the path as "/./" and "/". */
static AthanorStatus unique_name(const char *path, char name[2 * PATH_MAX]) {
  static atomic_uint opened;
  char real[PATH_MAX];
  if (!realpath(path, real))
    return ath_fail(ATHANOR_ERROR_FILE, "can't open %s: %s", path, strerror(errno));
  char *base = strrchr(real, '/');
  char *end = name + snprintf(name, 2 * PATH_MAX, "%.*s/", (int)(base - real), real);
  for (unsigned number = ++opened; number; number >>= 1)
    end += snprintf(end, 4, "%s", number & 1 ? "./" : "/");
  snprintf(end, PATH_MAX, "%s", base + 1);
  return ATHANOR_OK;
}

/* Models whose code is loaded. Two of the same file share one library, which is started once: its
 * tables must not be written again while the other one runs. */
static pthread_mutex_t loaded_lock = PTHREAD_MUTEX_INITIALIZER;
static AthanorModel *loaded_models;

static AthanorStatus start(AthanorModel *model, const AthanorDescriptor *descriptor) {
  AthanorStatus status = ATHANOR_OK;
  pthread_mutex_lock(&loaded_lock);
  const AthanorModel *other = loaded_models;
  while (other && other->descriptor != descriptor) other = other->next_loaded;
  if (!other && descriptor->init(&services)) {
    char reason[ATH_ERROR_BYTES / 2];
    snprintf(reason, sizeof reason, "%s", athanor_last_error());
    status = ath_fail(ATHANOR_ERROR_RUN, "can't start %s: %s", model->path,
                      *reason ? reason : "its init function failed");
  } else {
    model->descriptor = descriptor;
    model->next_loaded = loaded_models;
    loaded_models = model;
  }
  pthread_mutex_unlock(&loaded_lock);
  return status;
}

AthanorStatus ath_load_code(AthanorModel *model) {
  char name[2 * PATH_MAX];
  struct stat loaded;
  AthanorStatus status = unique_name(model->path, name);
  if (status) return status;
  model->library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!model->library)
    return ath_fail(ATHANOR_ERROR_FORMAT, "can't load the code of %s: %s", model->path, dlerror());
  if (stat(name, &loaded) || (uint64_t)loaded.st_ino != model->file.inode ||
      (uint64_t)loaded.st_dev != model->file.device)
    return ath_fail(ATHANOR_ERROR_FILE, "%s was replaced while it was being opened", model->path);
  const AthanorDescriptor *descriptor = dlsym(model->library, ATHANOR_DESCRIPTOR_SYMBOL);
  if (!descriptor)
    return ath_fail(ATHANOR_ERROR_FORMAT, "%s does not export %s", model->path,
                    ATHANOR_DESCRIPTOR_SYMBOL);
  if (descriptor->abi_version != ATHANOR_ABI_VERSION ||
      descriptor->size_bytes < sizeof(AthanorDescriptor))
    return ath_fail(ATHANOR_ERROR_VERSION,
                    "the code of %s has ABI version %u, this library (%s) reads version %u",
                    model->path, descriptor->abi_version, ATHANOR_VERSION, ATHANOR_ABI_VERSION);
  if (descriptor->weights_bytes != model->footer.weights_bytes)
    return ath_fail(ATHANOR_ERROR_FORMAT,
                    "%s: the code wants %llu bytes of weights, there are %llu", model->path,
                    (unsigned long long)descriptor->weights_bytes,
                    (unsigned long long)model->footer.weights_bytes);
  AthanorStatus started = start(model, descriptor);
  return started ? started : ath_make_specs(model);
}

void ath_unload_code(AthanorModel *model) {
  if (!model->library) return;
  /* With the lock held to the end: a descriptor in the list is never one of unloaded code. */
  pthread_mutex_lock(&loaded_lock);
  for (AthanorModel **at = &loaded_models; *at; at = &(*at)->next_loaded)
    if (*at == model) {
      *at = model->next_loaded;
      break;
    }
  dlclose(model->library);
  pthread_mutex_unlock(&loaded_lock);
}
