/* The destructor of Python's capsules of DLPack tensors, without a need of Python's headers. */
#include "internal.h"

typedef int (*IsValid)(void *capsule, const char *name);
typedef void *(*GetPointer)(void *capsule, const char *name);

static _Atomic(IsValid) is_valid;
static _Atomic(GetPointer) get_pointer;

/* Neither function touches an exception that is under way. */
static void destroy(void *capsule) {
  if (is_valid(capsule, "dltensor_versioned")) {
    DLManagedTensorVersioned *managed = get_pointer(capsule, "dltensor_versioned");
    if (managed->deleter) managed->deleter(managed);
  } else if (is_valid(capsule, "dltensor")) {
    DLManagedTensor *managed = get_pointer(capsule, "dltensor");
    if (managed->deleter) managed->deleter(managed);
  }
}

void *athanor_capsule_destructor(void *py_capsule_is_valid, void *py_capsule_get_pointer) {
  atomic_store(&is_valid, (IsValid)(intptr_t)py_capsule_is_valid);
  atomic_store(&get_pointer, (GetPointer)(intptr_t)py_capsule_get_pointer);
  return (void *)(intptr_t)destroy;
}
