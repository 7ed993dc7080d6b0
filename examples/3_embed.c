/* Run a compiled model from C.
 *
 *   athanor runtime --prefix /opt/athanor
 *   export PKG_CONFIG_PATH=/opt/athanor/lib/pkgconfig
 *   cc 3_embed.c $(pkg-config --cflags --libs athanor) -o embed
 *   LD_LIBRARY_PATH=/opt/athanor/lib ./embed model.so [size of unnamed and symbolic dimensions]
 */
#include <athanor.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static void die(void) {
  fprintf(stderr, "error: %s\n", athanor_last_error());
  exit(1);
}

/* A tensor that fits `spec`; symbolic dimensions get `size`. Floats are random, all else is 0. */
static DLTensor make_input(const AthanorTensorSpec *spec, int64_t size) {
  DLTensor tensor = {.device = {kDLCPU, 0}, .ndim = spec->ndim, .dtype = spec->dtype};
  size_t count = 1;
  tensor.shape = calloc((size_t)spec->ndim + 1, sizeof *tensor.shape);
  for (int32_t axis = 0; tensor.shape && axis < spec->ndim; axis++) {
    tensor.shape[axis] = spec->shape[axis] < 0 ? size : spec->shape[axis];
    count *= (size_t)tensor.shape[axis];
  }
  tensor.data = calloc(count + 1, (size_t)(spec->dtype.bits + 7) / 8);
  if (!tensor.shape || !tensor.data) abort();
  if (spec->dtype.code == kDLFloat && spec->dtype.bits == 32)
    for (size_t i = 0; i < count; i++) ((float *)tensor.data)[i] = (float)rand() / RAND_MAX;
  return tensor;
}

static void print_output(const AthanorTensorSpec *spec, const DLTensor *tensor) {
  int64_t count = 1;
  printf("%s: (", spec->name);
  for (int32_t axis = 0; axis < tensor->ndim; axis++) {
    printf("%s%" PRId64, axis ? ", " : "", tensor->shape[axis]);
    count *= tensor->shape[axis];
  }
  printf(")");
  if (tensor->dtype.code == kDLFloat && tensor->dtype.bits == 32)
    for (int64_t i = 0; i < count && i < 4; i++) printf(" %g", ((const float *)tensor->data)[i]);
  printf("\n");
}

int main(int argc, char **argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: %s model.so [size]\n", argv[0]);
    return 2;
  }
  const int64_t size = argc > 2 ? strtoll(argv[2], NULL, 10) : 1;

  AthanorModel *model = NULL;
  AthanorSession *session = NULL;
  AthanorSessionOptions options = {.size_bytes = sizeof options, .threads = 1};
  if (athanor_open(argv[1], NULL, &model)) die();
  if (athanor_session_create(model, &options, &session)) die();

  const int32_t num_inputs = athanor_num_inputs(model), num_outputs = athanor_num_outputs(model);
  DLTensor *inputs = calloc((size_t)num_inputs + 1, sizeof *inputs);
  DLTensor *outputs = calloc((size_t)num_outputs + 1, sizeof *outputs); /* data NULL: session's */
  if (!inputs || !outputs) abort();
  for (int32_t i = 0; i < num_inputs; i++) inputs[i] = make_input(athanor_input(model, i), size);

  if (athanor_session_run(session, inputs, num_inputs, outputs, num_outputs)) die();
  for (int32_t i = 0; i < num_outputs; i++) print_output(athanor_output(model, i), &outputs[i]);

  for (int32_t i = 0; i < num_inputs; i++) free(inputs[i].data), free(inputs[i].shape);
  free(inputs);
  free(outputs);
  athanor_session_close(session);
  athanor_close(model);
  return 0;
}
