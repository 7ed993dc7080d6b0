/* Results as tensors of their own on a device, and as DLPack hands them on. */
#include "session.h"

#include <stdlib.h>
#include <string.h>

struct AthanorTensor {
  atomic_int references;
  AthResult *result;
  uint64_t size_bytes;
  DLTensor view;
  int64_t dims[]; /* shape, then strides */
};

static void describe(AthanorTensor *tensor, const AthanorTensorSpec *spec, const int64_t *shape,
                     int device) {
  int64_t *strides = tensor->dims + spec->ndim, stride = 1;
  for (int32_t axis = spec->ndim - 1; axis >= 0; axis--) {
    tensor->dims[axis] = shape[axis];
    strides[axis] = stride;
    stride *= shape[axis] > 1 ? shape[axis] : 1;
  }
  ath_size_bytes(shape, spec->ndim, ath_itemsize(spec->dtype), &tensor->size_bytes);
  tensor->view = (DLTensor){
      .data = (void *)tensor->result->data,
      .device = {kDLCUDA, device},
      .ndim = spec->ndim,
      .dtype = spec->dtype,
      .shape = tensor->dims,
      .strides = strides,
  };
}

static AthanorStatus new_tensor(const AthanorTensorSpec *spec, AthanorTensor **made) {
  AthanorTensor *tensor =
      calloc(1, sizeof *tensor + 2 * (size_t)spec->ndim * sizeof *tensor->dims);
  if (!tensor) return ath_fail(ATHANOR_ERROR_MEMORY, "no memory for output '%s'", spec->name);
  atomic_init(&tensor->references, 1);
  *made = tensor;
  return ATHANOR_OK;
}

AthanorStatus ath_tensor_make(AthanorSession *session, int32_t index, AthanorTensor **made) {
  const AthanorTensorSpec *spec = athanor_output(session->model, index);
  AthDeviceSession *device = session->device;
  const int64_t *shape = ath_output_shape(session, index);
  uint64_t size_bytes = 0;
  ath_size_bytes(shape, spec->ndim, ath_itemsize(spec->dtype), &size_bytes);
  AthanorTensor *tensor;
  AthanorStatus status = new_tensor(spec, &tensor);
  if (status) return status;
  status = ath_result_take(device->results, size_bytes, spec->name, &tensor->result);
  if (status) {
    free(tensor);
    return status;
  }
  describe(tensor, spec, shape, device->loaded->device);
  *made = tensor;
  return ATHANOR_OK;
}

AthanorStatus ath_tensor_adopt(AthanorSession *session, int32_t index, AthanorTensor **made) {
  const AthanorTensorSpec *spec = athanor_output(session->model, index);
  AthDeviceSession *device = session->device;
  AthanorTensor *tensor;
  AthanorStatus status = new_tensor(spec, &tensor);
  if (status) return status;
  status = ath_result_adopt(device->results, &device->outputs[index], &tensor->result);
  if (status) {
    free(tensor);
    return status;
  }
  describe(tensor, spec, ath_output_shape(session, index), device->loaded->device);
  *made = tensor;
  return ATHANOR_OK;
}

AthanorStatus ath_tensor_queued(AthanorTensor *tensor) { return ath_result_queued(tensor->result); }

const DLTensor *athanor_tensor_view(const AthanorTensor *tensor) {
  return tensor ? &tensor->view : NULL;
}

AthanorStatus athanor_tensor_wait(AthanorTensor *tensor, void *stream) {
  ath_clear_error();
  if (!tensor) return ath_fail(ATHANOR_ERROR_ARGUMENT, "athanor_tensor_wait: tensor is NULL");
  /* Who waits on the host may use it anywhere after. */
  if (!stream) ath_result_use_anywhere(tensor->result);
  return ath_result_wait(tensor->result, stream);
}

AthanorStatus athanor_tensor_read(AthanorTensor *tensor, void *target) {
  ath_clear_error();
  if (!tensor || (!target && tensor->size_bytes))
    return ath_fail(ATHANOR_ERROR_ARGUMENT, "athanor_tensor_read: tensor or target is NULL");
  return ath_result_read(tensor->result, target, tensor->size_bytes);
}

void athanor_tensor_release(AthanorTensor *tensor) {
  if (!tensor || atomic_fetch_sub(&tensor->references, 1) != 1) return;
  ath_result_release(tensor->result);
  free(tensor);
}

static void delete_versioned(DLManagedTensorVersioned *managed) {
  athanor_tensor_release(managed->manager_ctx);
  free(managed);
}

static void delete_old(DLManagedTensor *managed) {
  athanor_tensor_release(managed->manager_ctx);
  free(managed);
}

/* One more owner, by DLPack's rules; false where DLPack has no such tensor: one of elements of less
 * than a byte, which lie in a byte each here and are packed there. */
static bool hand_on(AthanorTensor *tensor) {
  if (!tensor || tensor->view.dtype.bits < 8) return false;
  if (!tensor->result->was_waited) ath_result_use_anywhere(tensor->result);
  atomic_fetch_add(&tensor->references, 1);
  return true;
}

DLManagedTensorVersioned *athanor_tensor_to_dlpack(AthanorTensor *tensor) {
  DLManagedTensorVersioned *managed = calloc(1, sizeof *managed);
  if (!managed || !hand_on(tensor)) {
    free(managed);
    return NULL;
  }
  *managed = (DLManagedTensorVersioned){
      .version = {1, 0},
      .manager_ctx = tensor,
      .deleter = delete_versioned,
      .dl_tensor = tensor->view,
  };
  return managed;
}

DLManagedTensor *athanor_tensor_to_old_dlpack(AthanorTensor *tensor) {
  DLManagedTensor *managed = calloc(1, sizeof *managed);
  if (!managed || !hand_on(tensor)) {
    free(managed);
    return NULL;
  }
  *managed = (DLManagedTensor){
      .dl_tensor = tensor->view, .manager_ctx = tensor, .deleter = delete_old};
  return managed;
}
