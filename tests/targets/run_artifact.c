/* Runs an artifact on arrays from files.
 *
 *   run_artifact m.so THREADS INPUT... : OUTPUT...
 *
 * A file is the rank, the sizes (int64 each) and the elements. One file for each input of the
 * model, in its order, and for each output. */
#include <athanor.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void require(int ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "%s: %s\n", what, athanor_last_error());
  exit(1);
}

static size_t size_bytes(const DLTensor *tensor) {
  size_t size = (tensor->dtype.bits + 7u) / 8;
  for (int32_t axis = 0; axis < tensor->ndim; axis++) size *= (size_t)tensor->shape[axis];
  return size;
}

static DLTensor read_tensor(const char *path, const AthanorTensorSpec *spec) {
  DLTensor tensor = {.device = {kDLCPU, 0}, .dtype = spec->dtype};
  FILE *file = fopen(path, "rb");
  int64_t rank = -1;
  require(file && fread(&rank, sizeof rank, 1, file) == 1 && rank == spec->ndim, path);
  tensor.ndim = (int32_t)rank;
  tensor.shape = calloc((size_t)rank + 1, sizeof *tensor.shape);
  require(tensor.shape && fread(tensor.shape, 8, (size_t)rank, file) == (size_t)rank, path);
  const size_t size = size_bytes(&tensor);
  tensor.data = calloc(size + 1, 1);
  require(tensor.data && fread(tensor.data, 1, size, file) == size, path);
  fclose(file);
  return tensor;
}

static void write_tensor(const char *path, const DLTensor *tensor) {
  FILE *file = fopen(path, "wb");
  const int64_t rank = tensor->ndim;
  require(file && fwrite(&rank, sizeof rank, 1, file) == 1, path);
  require(fwrite(tensor->shape, 8, (size_t)rank, file) == (size_t)rank, path);
  require(fwrite(tensor->data, 1, size_bytes(tensor), file) == size_bytes(tensor), path);
  fclose(file);
}

int main(int argc, char **argv) {
  AthanorModel *model = NULL;
  AthanorSession *session = NULL;
  DLTensor inputs[8] = {{0}}, outputs[8] = {{0}};
  require(argc > 3 && !athanor_open(argv[1], NULL, &model), "open");
  const int32_t given = athanor_num_inputs(model), made = athanor_num_outputs(model);
  require(given <= 8 && made <= 8 && argc == 4 + given + made, "arguments");
  require(!strcmp(argv[3 + given], ":"), "arguments");
  AthanorSessionOptions options = {.size_bytes = sizeof options, .threads = atoi(argv[2])};
  require(!athanor_session_create(model, &options, &session), "session");
  for (int32_t i = 0; i < given; i++) inputs[i] = read_tensor(argv[3 + i], athanor_input(model, i));
  require(!athanor_session_run(session, inputs, given, outputs, made), "run");
  for (int32_t i = 0; i < made; i++) write_tensor(argv[4 + given + i], &outputs[i]);
  for (int32_t i = 0; i < given; i++) free(inputs[i].data), free(inputs[i].shape);
  athanor_session_close(session);
  athanor_close(model);
  return 0;
}
