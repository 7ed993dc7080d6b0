/* Opening and closing artifacts. */
#include "internal.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define VERIFY_WEIGHTS_BELOW_BYTES ((uint64_t)64 << 20)

const char *athanor_version(void) { return ATHANOR_VERSION; }

/* Maps `<artifact>.weights`: beside the path as given, or beside the file it links to. */
static AthanorStatus map_weights(AthanorModel *model, char weights_path[PATH_MAX + 16]) {
  const AthanorFooter *footer = &model->footer;
  snprintf(weights_path, PATH_MAX + 16, "%s", model->path);
  if (!(footer->flags & ATHANOR_FLAG_WEIGHTS_BESIDE)) {
    model->weights = model->file.data + footer->weights_offset;
    return ATHANOR_OK;
  }
  char real[PATH_MAX];
  struct stat unused;
  snprintf(weights_path, PATH_MAX + 16, "%s.weights", model->path);
  if (stat(weights_path, &unused) && realpath(model->path, real)) {
    char beside_real[PATH_MAX + 16];
    snprintf(beside_real, sizeof beside_real, "%s.weights", real);
    if (!stat(beside_real, &unused)) strcpy(weights_path, beside_real);
  }
  if (ath_file_map(weights_path, &model->weights_file)) {
    char reason[ATH_ERROR_BYTES / 2];
    snprintf(reason, sizeof reason, "%s", athanor_last_error());
    return ath_fail(ATHANOR_ERROR_FILE, "weights of %s are missing: %s", model->path, reason);
  }
  if (model->weights_file.size_bytes != footer->weights_bytes)
    return ath_fail(ATHANOR_ERROR_FORMAT,
                    "weights of %s are damaged: %s has %zu bytes, expected %llu", model->path,
                    weights_path, model->weights_file.size_bytes,
                    (unsigned long long)footer->weights_bytes);
  model->weights = model->weights_file.data;
  return ATHANOR_OK;
}

static AthanorStatus open_model(AthanorModel *model, const AthanorOpenOptions *options) {
  const bool inspect_only = options->flags & ATHANOR_OPEN_INSPECT_ONLY;
  const bool always = options->verify == ATHANOR_VERIFY_ALWAYS;
  char weights_path[PATH_MAX + 16];
  AthanorStatus status = ath_file_map(model->path, &model->file);
  if (!status) status = ath_footer_read(model->path, &model->file, &model->footer);
  /* Before dlopen, which may run code of the library. */
  if (!status && !inspect_only) status = ath_check_machine(model->path, &model->footer);
  /* Who only reads the metadata need not have the weights. */
  const bool want_weights = !inspect_only || always;
  if (!status && want_weights) status = map_weights(model, weights_path);
  if (status) return status;
  const bool small =
      model->file.size_bytes + model->weights_file.size_bytes < VERIFY_WEIGHTS_BELOW_BYTES;
  if (inspect_only && !always)
    status = ath_verify_metadata(model->path, &model->file, &model->footer);
  else if (options->verify != ATHANOR_VERIFY_NEVER)
    status = ath_verify(model->path, &model->file, weights_path, model->weights, &model->footer,
                        always || small);
  if (!status && !inspect_only) status = ath_load_code(model);
  return status;
}

AthanorStatus athanor_open(const char *path, const AthanorOpenOptions *options,
                           AthanorModel **result) {
  const AthanorOpenOptions defaults = {.size_bytes = sizeof defaults};
  if (!options) options = &defaults;
  ath_clear_error();
  if (!path || !result)
    return ath_fail(ATHANOR_ERROR_ARGUMENT, "athanor_open: path or model is NULL");
  if (options->size_bytes < sizeof defaults || options->flags & ~ATHANOR_OPEN_INSPECT_ONLY ||
      options->verify < ATHANOR_VERIFY_DEFAULT || options->verify > ATHANOR_VERIFY_NEVER)
    return ath_fail(ATHANOR_ERROR_ARGUMENT,
                    "athanor_open: options with size_bytes=%u, flags=%u, verify=%d are not known "
                    "to this version",
                    options->size_bytes, options->flags, options->verify);
  if (strlen(path) >= PATH_MAX)
    return ath_fail(ATHANOR_ERROR_ARGUMENT, "athanor_open: the path is longer than %d bytes",
                    PATH_MAX - 1);
  AthanorModel *model = calloc(1, sizeof *model);
  if (model) model->path = strdup(path);
  if (!model || !model->path) {
    free(model);
    return ath_fail(ATHANOR_ERROR_MEMORY, "no memory to open %s", path);
  }
  atomic_init(&model->references, 1);
  pthread_mutex_init(&model->lock, NULL);
  const AthanorStatus status = open_model(model, options);
  if (status)
    athanor_close(model);
  else
    *result = model;
  return status;
}

void ath_model_retain(AthanorModel *model) { atomic_fetch_add(&model->references, 1); }

void athanor_close(AthanorModel *model) {
  if (!model || atomic_fetch_sub(&model->references, 1) != 1) return;
  ath_unload_code(model);
  ath_file_unmap(&model->file);
  ath_file_unmap(&model->weights_file);
  pthread_mutex_destroy(&model->lock);
  free(model->specs);
  free(model->metadata);
  free(model->path);
  free(model);
}

const char *athanor_metadata_json(AthanorModel *model) {
  ath_clear_error();
  if (!model) {
    ath_fail(ATHANOR_ERROR_ARGUMENT, "athanor_metadata_json: model is NULL");
    return NULL;
  }
  /* Copied only for those who ask: it may hold the IR of every kernel. */
  pthread_mutex_lock(&model->lock);
  if (!model->metadata) {
    const size_t size = model->footer.metadata_bytes;
    model->metadata = malloc(size + 1);
    if (model->metadata) {
      memcpy(model->metadata, model->file.data + model->footer.metadata_offset, size);
      model->metadata[size] = 0;
    } else {
      ath_fail(ATHANOR_ERROR_MEMORY, "no memory for the metadata of %s", model->path);
    }
  }
  pthread_mutex_unlock(&model->lock);
  return model->metadata;
}
