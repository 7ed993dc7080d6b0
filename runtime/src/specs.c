/* The artifact's tensor table -> what the API shows of inputs and outputs. */
#include "internal.h"

#include <stdlib.h>

static bool is_symbol(const AthanorDescriptor *d, int64_t dim, int64_t *index) {
  *index = -dim - 1;
  return dim < 0 && dim >= -(int64_t)d->num_symbols;
}

/* Each input axis is a number or a symbol, and each symbol is some input's axis: else the values
 * that kernels compute with would be unknown. */
static AthanorStatus check_inputs(const AthanorModel *model) {
  const AthanorDescriptor *d = model->descriptor;
  for (int32_t symbol = 0; symbol < d->num_symbols; symbol++) {
    bool bound = false;
    for (int32_t i = 0; i < d->num_inputs; i++)
      for (int32_t axis = 0; axis < d->inputs[i].ndim; axis++)
        bound = bound || d->inputs[i].shape[axis] == ATHANOR_DIM_SYMBOL(symbol);
    if (!bound)
      return ath_fail(ATHANOR_ERROR_FORMAT, "%s: no input has the dimension %s", model->path,
                      d->symbols[symbol]);
  }
  for (int32_t i = 0; i < d->num_inputs; i++)
    for (int32_t axis = 0; axis < d->inputs[i].ndim; axis++) {
      int64_t index;
      if (d->inputs[i].shape[axis] < 0 && !is_symbol(d, d->inputs[i].shape[axis], &index))
        return ath_fail(ATHANOR_ERROR_FORMAT,
                        "%s: axis %d of input '%s' is neither a number nor a symbol", model->path,
                        axis, d->inputs[i].name);
    }
  return ATHANOR_OK;
}

AthanorStatus ath_make_specs(AthanorModel *model) {
  const AthanorDescriptor *d = model->descriptor;
  AthanorStatus status = check_inputs(model);
  if (status) return status;
  const int32_t count = d->num_inputs + d->num_outputs;
  size_t dims = 0;
  for (int32_t i = 0; i < count; i++)
    dims += (size_t)(i < d->num_inputs ? d->inputs[i] : d->outputs[i - d->num_inputs]).ndim;
  /* One block: specs, then all dim_names, then all shapes; each is aligned to 8 bytes. */
  const size_t specs_bytes = (size_t)count * sizeof(AthanorTensorSpec);
  model->specs = calloc(1, specs_bytes + dims * (sizeof(char *) + sizeof(int64_t)) + 1);
  if (!model->specs) return ath_fail(ATHANOR_ERROR_MEMORY, "no memory to open %s", model->path);
  const char **names = (const char **)((char *)model->specs + specs_bytes);
  int64_t *shape = (int64_t *)(names + dims);
  for (int32_t i = 0; i < count; i++) {
    const AthanorTensorInfo *info =
        i < d->num_inputs ? &d->inputs[i] : &d->outputs[i - d->num_inputs];
    model->specs[i] = (AthanorTensorSpec){
        .name = info->name,
        .dtype = {info->dtype_code, info->dtype_bits, info->dtype_lanes},
        .ndim = info->ndim,
        .shape = shape,
        .dim_names = names,
        .kind = (int32_t)info->kind,
        .part = (int32_t)info->part,
    };
    for (int32_t axis = 0; axis < info->ndim; axis++) {
      int64_t index;
      *shape = info->shape[axis] < 0 ? -1 : info->shape[axis];
      *names = is_symbol(d, info->shape[axis], &index) ? d->symbols[index] : NULL;
      shape++, names++;
    }
  }
  return ATHANOR_OK;
}

int32_t athanor_num_inputs(const AthanorModel *model) {
  return model && model->descriptor ? model->descriptor->num_inputs : 0;
}

int32_t athanor_num_outputs(const AthanorModel *model) {
  return model && model->descriptor ? model->descriptor->num_outputs : 0;
}

const AthanorTensorSpec *athanor_input(const AthanorModel *model, int32_t index) {
  return index < 0 || index >= athanor_num_inputs(model) ? NULL : &model->specs[index];
}

const AthanorTensorSpec *athanor_output(const AthanorModel *model, int32_t index) {
  if (index < 0 || index >= athanor_num_outputs(model)) return NULL;
  return &model->specs[model->descriptor->num_inputs + index];
}
