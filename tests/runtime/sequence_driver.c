/* Runs sequence.c's artifact as an app does: finds the parts of a value, hands over a sequence of
 * two tensors, (2, 1) and a scalar, and reads it back. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "athanor.h"

#define CHECK(condition)                                                               \
  do {                                                                                 \
    if (!(condition)) {                                                                \
      fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #condition, athanor_last_error()); \
      exit(1);                                                                         \
    }                                                                                  \
  } while (0)

static DLTensor tensor(void *data, int32_t ndim, int64_t *shape, DLDataType dtype) {
  DLTensor made = {0};
  made.data = data;
  made.device.device_type = kDLCPU;
  made.ndim = ndim;
  made.shape = shape;
  made.dtype = dtype;
  return made;
}

int main(int argc, char **argv) {
  CHECK(argc == 2);
  AthanorModel *model = NULL;
  AthanorSession *session = NULL;
  CHECK(!athanor_open(argv[1], NULL, &model) && !athanor_session_create(model, NULL, &session));
  static const char *const names[] = {"s.elements", "s.shapes",   "o.elements", "o.shapes",
                                      "p.elements", "p.shapes", "p.present"};
  static const int32_t kinds[] = {1, 1, 2, 2, 3, 3, 3}, parts[] = {0, 1, 0, 1, 0, 1, 2};
  for (int32_t i = 0; i < 7; i++) {
    const AthanorTensorSpec *in = athanor_input(model, i), *out = athanor_output(model, i);
    CHECK(!strcmp(in->name, names[i]) && !strcmp(out->name, names[i]));
    CHECK(in->kind == kinds[i] && in->part == parts[i]);
    CHECK(out->kind == kinds[i] && out->part == parts[i]);
  }
  const DLDataType f32 = {kDLFloat, 32, 1}, i64 = {kDLInt, 64, 1}, flag = {kDLBool, 8, 1};
  float elements[] = {1, 2, 3};
  int64_t shapes[2][4] = {{2, 2, 1}, {0}};
  int64_t total[] = {3}, table[] = {2, 4}, empty[] = {0}, no_row[] = {0, 2}, no_wide_row[] = {0, 3};
  uint8_t present = 0;
  DLTensor inputs[7], outputs[7];
  inputs[0] = tensor(elements, 1, total, f32);
  inputs[1] = tensor(shapes, 2, table, i64);
  inputs[2] = tensor(NULL, 1, empty, f32);
  inputs[3] = tensor(NULL, 2, no_row, i64);
  inputs[4] = tensor(NULL, 1, empty, f32);
  inputs[5] = tensor(NULL, 2, no_wide_row, i64);
  inputs[6] = tensor(&present, 0, NULL, flag);
  memset(outputs, 0, sizeof outputs);
  CHECK(!athanor_session_run(session, inputs, 7, outputs, 7));
  CHECK(outputs[0].shape[0] == 3 && !memcmp(outputs[0].data, elements, sizeof elements));
  CHECK(outputs[1].shape[0] == 2 && !memcmp(outputs[1].data, shapes, sizeof shapes));
  CHECK(outputs[3].shape[0] == 0 && outputs[6].ndim == 0 && !*(uint8_t *)outputs[6].data);
  athanor_session_close(session);
  athanor_close(model);
  return 0;
}
