/* Runs text.c's artifact as an app does. */
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

int main(int argc, char **argv) {
  CHECK(argc == 2);
  AthanorModel *model = NULL;
  AthanorSession *session = NULL;
  CHECK(!athanor_open(argv[1], NULL, &model) && !athanor_session_create(model, NULL, &session));
  const char *x[] = {"one", "zwei", "\xe4\xb8\x89"}, *mine[3];
  int64_t shape[] = {3};
  DLTensor input = {0}, outputs[2];
  input.data = (void *)x;
  input.device.device_type = kDLCPU;
  input.ndim = 1;
  input.dtype = (DLDataType){kDLOpaqueHandle, 64, 1};
  input.shape = shape;
  memset(outputs, 0, sizeof outputs);
  outputs[1] = input;
  outputs[1].data = (void *)mine;
  for (int round = 0; round < 3; round++) {
    CHECK(!athanor_session_run(session, &input, 1, outputs, 2));
    const char *const *same = outputs[0].data;
    CHECK(same[0] == x[0] && same[1] == x[1] && same[2] == x[2]);
    CHECK(!strcmp(mine[1], "zweizwei") && !strcmp(mine[2], "\xe4\xb8\x89\xe4\xb8\x89"));
    outputs[0].data = NULL;
  }
  x[1] = NULL;
  CHECK(athanor_session_run(session, &input, 1, outputs, 2) == ATHANOR_ERROR_INPUT);
  CHECK(!strcmp(athanor_last_error(), "input 'x' has no string (NULL) as its element 1"));
  x[1] = "";
  CHECK(athanor_session_run(session, &input, 1, outputs, 2) == ATHANOR_ERROR_RUN);
  input.dtype = (DLDataType){kDLInt, 64, 1};
  CHECK(athanor_session_run(session, &input, 1, outputs, 2) == ATHANOR_ERROR_INPUT);
  CHECK(!strcmp(athanor_last_error(), "input 'x' has type int64, expected string"));
  input.dtype = (DLDataType){kDLOpaqueHandle, 64, 1};
  x[1] = "y";
  CHECK(!athanor_session_run(session, &input, 1, outputs, 2) && !strcmp(mine[1], "yy"));
  athanor_session_close(session);
  athanor_close(model);
  return 0;
}
