/* Checking tensors against what the model wants. Every sentence names the tensor, what was
 * expected and what was received. */
#include "internal.h"

#include <stdio.h>
#include <string.h>

static size_t append(char *text, size_t size, size_t at, const char *piece) {
  if (at < size) at += (size_t)snprintf(text + at, size - at, "%s", piece);
  return at;
}

void ath_print_shape(char *text, size_t size, const int64_t *shape, int32_t ndim,
                     const char *const *names) {
  size_t at = append(text, size, 0, "(");
  for (int32_t axis = 0; axis < ndim; axis++) {
    char number[24];
    snprintf(number, sizeof number, "%lld", (long long)shape[axis]);
    const char *piece = names && names[axis]       ? names[axis]
                        : names && shape[axis] < 0 ? "?"
                                                   : number;
    at = append(text, size, at, piece);
    at = append(text, size, at, axis + 1 < ndim ? ", " : ndim == 1 ? "," : "");
  }
  append(text, size, at, ")");
}

bool ath_is_string(DLDataType dtype) { return dtype.code == 3 && dtype.bits == 64; }

static void print_dtype(char text[32], DLDataType dtype) {
  static const char *const names[] = {"int",    "uint",    "float", "handle",
                                      "bfloat", "complex", "bool"};
  static const char *const small[] = {"float8_e3m4",     "float8_e4m3",     "float8_e4m3b11fnuz",
                                      "float8_e4m3fn",   "float8_e4m3fnuz", "float8_e5m2",
                                      "float8_e5m2fnuz", "float8_e8m0fnu",  "float6_e2m3fn",
                                      "float6_e3m2fn",   "float4_e2m1fn"};
  char lanes[8] = "";
  if (dtype.lanes != 1) snprintf(lanes, sizeof lanes, "x%u", dtype.lanes);
  if (dtype.code == 6 && dtype.bits == 8)
    snprintf(text, 32, "bool%s", lanes);
  else if (ath_is_string(dtype))
    snprintf(text, 32, "string");
  else if (dtype.code < 7)
    snprintf(text, 32, "%s%u%s", names[dtype.code], dtype.bits, lanes);
  else if (dtype.code < 18)
    snprintf(text, 32, "%s%s", small[dtype.code - 7], lanes);
  else
    snprintf(text, 32, "type code %u with %u bits", dtype.code, dtype.bits);
}

size_t ath_itemsize(DLDataType dtype) { return (size_t)(dtype.bits + 7) / 8 * dtype.lanes; }

bool ath_size_bytes(const int64_t *shape, int32_t ndim, size_t itemsize, uint64_t *size_bytes) {
  /* With 1 in the place of 0, so that no product of the sizes can overflow anywhere. */
  uint64_t bound = itemsize, size = itemsize;
  for (int32_t axis = 0; axis < ndim; axis++) {
    if (shape[axis] < 0) return false;
    const uint64_t dim = (uint64_t)shape[axis];
    if (__builtin_mul_overflow(bound, dim ? dim : 1, &bound)) return false;
    size *= dim;
  }
  *size_bytes = size;
  return bound <= INT64_MAX;
}

static bool is_dense(const DLTensor *tensor) {
  if (!tensor->strides) return true;
  int64_t expected = 1;
  bool dense = true;
  for (int32_t axis = tensor->ndim - 1; axis >= 0; axis--) {
    if (tensor->shape[axis] == 0) return true; /* no element, so no wrong place */
    dense = dense && (tensor->shape[axis] == 1 || tensor->strides[axis] == expected);
    expected *= tensor->shape[axis];
  }
  return dense;
}

static AthanorStatus wrong_shape(const char *kind, const AthanorTensorSpec *spec,
                                 const DLTensor *tensor) {
  char expected[256], received[256];
  ath_print_shape(expected, sizeof expected, spec->shape, spec->ndim, spec->dim_names);
  ath_print_shape(received, sizeof received, tensor->shape, tensor->ndim, NULL);
  return ath_fail(ATHANOR_ERROR_INPUT, "%s '%s' has shape %s, expected %s", kind, spec->name,
                  received, expected);
}

/* device: the one that it may be on, too; -1: the CPU alone. */
static AthanorStatus check_device(const char *kind, const AthanorTensorSpec *spec,
                                  const DLTensor *tensor, int device) {
  const int type = (int)tensor->device.device_type;
  if (type == kDLCPU || (device >= 0 && type == kDLCUDAHost)) return ATHANOR_OK;
  if (device < 0 || type != kDLCUDA || ath_is_string(spec->dtype))
    return ath_fail(ATHANOR_ERROR_INPUT, "%s '%s' is on device type %d, expected the CPU (%d)%s",
                    kind, spec->name, type, (int)kDLCPU,
                    device < 0 || ath_is_string(spec->dtype) ? "" : " or CUDA (2)");
  if (tensor->device.device_id == device) return ATHANOR_OK;
  return ath_fail(ATHANOR_ERROR_INPUT, "%s '%s' is on CUDA device %d, the session on device %d",
                  kind, spec->name, tensor->device.device_id, device);
}

AthanorStatus ath_check_tensor(const char *kind, const AthanorTensorSpec *spec,
                               const DLTensor *tensor, int device) {
  uint64_t size_bytes;
  if (tensor->dtype.code != spec->dtype.code || tensor->dtype.bits != spec->dtype.bits ||
      tensor->dtype.lanes != spec->dtype.lanes) {
    char expected[32], received[32];
    print_dtype(expected, spec->dtype);
    print_dtype(received, tensor->dtype);
    return ath_fail(ATHANOR_ERROR_INPUT, "%s '%s' has type %s, expected %s", kind, spec->name,
                    received, expected);
  }
  const AthanorStatus status = check_device(kind, spec, tensor, device);
  if (status) return status;
  if (tensor->ndim < 0 || (tensor->ndim && !tensor->shape))
    return ath_fail(ATHANOR_ERROR_INPUT, "%s '%s' has %d dimensions and no shape", kind, spec->name,
                    tensor->ndim);
  if (tensor->ndim != spec->ndim) return wrong_shape(kind, spec, tensor);
  for (int32_t axis = 0; axis < spec->ndim; axis++)
    if (tensor->shape[axis] < 0 ||
        (spec->shape[axis] >= 0 && tensor->shape[axis] != spec->shape[axis]))
      return wrong_shape(kind, spec, tensor);
  const size_t itemsize = ath_itemsize(spec->dtype);
  if (!ath_size_bytes(tensor->shape, tensor->ndim, itemsize, &size_bytes)) {
    char received[256];
    ath_print_shape(received, sizeof received, tensor->shape, tensor->ndim, NULL);
    return ath_fail(ATHANOR_ERROR_INPUT, "%s '%s' with shape %s is larger than any memory", kind,
                    spec->name, received);
  }
  if (!is_dense(tensor))
    return ath_fail(ATHANOR_ERROR_INPUT, "%s '%s' is not dense and row-major: copy it first", kind,
                    spec->name);
  return ATHANOR_OK;
}

AthanorStatus ath_check_data(const char *kind, const AthanorTensorSpec *spec,
                             const DLTensor *tensor, void **data) {
  /* What an empty tensor points to is never read, but kernels may form the address. */
  static uint8_t nothing[64] __attribute__((aligned(64)));
  uint64_t size_bytes = 0;
  const size_t itemsize = ath_itemsize(spec->dtype);
  ath_size_bytes(tensor->shape, tensor->ndim, itemsize, &size_bytes);
  *data = tensor->data ? (uint8_t *)tensor->data + tensor->byte_offset : nothing;
  if (!size_bytes) return ATHANOR_OK;
  if (!tensor->data)
    return ath_fail(ATHANOR_ERROR_INPUT, "%s '%s' has no data (NULL)", kind, spec->name);
  const size_t alignment = itemsize & (~itemsize + 1); /* its largest power of two */
  if ((uintptr_t)*data % alignment)
    return ath_fail(ATHANOR_ERROR_INPUT, "%s '%s' is not aligned to its element of %zu bytes", kind,
                    spec->name, itemsize);
  if (tensor->device.device_type == kDLCUDA && (uintptr_t)*data % 16) /* kernels read so much */
    return ath_fail(ATHANOR_ERROR_INPUT,
                    "%s '%s' is on a device and not aligned to 16 bytes: copy it first", kind,
                    spec->name);
  return ATHANOR_OK;
}

AthanorStatus ath_check_strings(const AthanorTensorSpec *spec, const DLTensor *tensor,
                                const void *data) {
  int64_t count = 1;
  if (!ath_is_string(spec->dtype)) return ATHANOR_OK;
  for (int32_t axis = 0; axis < tensor->ndim; axis++) count *= tensor->shape[axis];
  for (int64_t i = 0; i < count; i++)
    if (!((const char *const *)data)[i])
      return ath_fail(ATHANOR_ERROR_INPUT, "input '%s' has no string (NULL) as its element %lld",
                      spec->name, (long long)i);
  return ATHANOR_OK;
}

static AthanorStatus contradiction(const AthanorModel *model, const DLTensor *inputs, int32_t index,
                                   int64_t dim, int64_t value) {
  const AthanorDescriptor *d = model->descriptor;
  const AthanorTensorSpec *spec = &model->specs[index];
  char expected[256], received[256];
  int32_t first = 0; /* the input that gave the symbol its value */
  for (bool found = false; !found; first += !found)
    for (int32_t axis = 0; axis < d->inputs[first].ndim; axis++)
      found = found || d->inputs[first].shape[axis] == dim;
  ath_print_shape(expected, sizeof expected, spec->shape, spec->ndim, spec->dim_names);
  ath_print_shape(received, sizeof received, inputs[index].shape, spec->ndim, NULL);
  return ath_fail(ATHANOR_ERROR_INPUT,
                  "input '%s' has shape %s, expected %s with %s = %lld as in input '%s'",
                  spec->name, received, expected, d->symbols[-dim - 1], (long long)value,
                  d->inputs[first].name);
}

AthanorStatus ath_bind_symbols(const AthanorModel *model, const DLTensor *inputs,
                               int64_t *symbols) {
  const AthanorDescriptor *d = model->descriptor;
  for (int32_t i = 0; i < d->num_symbols; i++) symbols[i] = -1;
  for (int32_t i = 0; i < d->num_inputs; i++)
    for (int32_t axis = 0; axis < d->inputs[i].ndim; axis++) {
      const int64_t dim = d->inputs[i].shape[axis];
      if (dim >= 0) continue;
      int64_t *value = &symbols[-dim - 1];
      if (*value < 0) *value = inputs[i].shape[axis];
      if (*value != inputs[i].shape[axis]) return contradiction(model, inputs, i, dim, *value);
    }
  return ATHANOR_OK;
}
