/* athanor.runtime._fast_call: the call of a model with arrays like those of the call before.
 *
 * Model.run in Python checks everything and says what is wrong; that takes longer than a small
 * model runs. A FastCall is made for one session and one set of types and shapes. On a dict of
 * NumPy arrays that have them it runs the model and returns the results; on anything else it
 * returns None, and Model.run starts over. It has no error of its own.
 *
 * Results are views of arrays that are kept, and used again once nothing refers to them: the pages
 * of a new large array would have to be mapped and cleared by the system at every call.
 *
 * In Python's stable ABI of 3.11, so that one build serves every later version. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "athanor.h"

/* A caller that replaces its result by the next one holds one while the next is made. */
#define SPARES 2
/* An array for results that are larger than this is not kept. Below, to have its pages cleared anew
 * would take longer than to write it (100 MB: 13 ms against 7). */
#define LARGEST_KEPT ((Py_ssize_t)256 << 20)

typedef int32_t (*Run)(AthanorSession *, const DLTensor *, int32_t, DLTensor *, int32_t);

typedef struct {
  PyObject *name;
  PyObject *like; /* an array of this type and shape, without elements of its own */
  Py_ssize_t itemsize, bytes;
  char format[8];
  PyObject *spares[SPARES]; /* of an output */
  void *data[SPARES];
} Value;

typedef struct {
  PyObject_HEAD
  Run run;
  AthanorSession *session; /* NULL: closed */
  PyObject *array_type, *empty_like, *acquire, *release, *no_wait, *no_arguments;
  int32_t counts[2]; /* of inputs and outputs; so below */
  Value *values[2];
  DLTensor *tensors[2];
  int64_t *sizes;
} FastCall;

/* The elements of an array that has the type and shape of `like`; NULL with an exception or not.
 * The array is held by the caller for as long as the address is used. */
static void *address_of(PyObject *array, const Value *value, const DLTensor *tensor) {
  Py_buffer view;
  if (PyObject_GetBuffer(array, &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)) return NULL;
  bool fits = view.ndim == tensor->ndim && view.itemsize == value->itemsize && view.format &&
              !strncmp(view.format, value->format, sizeof value->format) &&
              (uintptr_t)view.buf % (uintptr_t)view.itemsize == 0;
  for (int axis = 0; fits && axis < view.ndim; axis++)
    fits = view.shape[axis] == tensor->shape[axis];
  void *data = fits ? view.buf : NULL;
  PyBuffer_Release(&view);
  return data;
}

/* A new reference to a result for output `index`, and the tensor pointing to it; NULL: failed. */
static PyObject *new_result(FastCall *self, int32_t index) {
  Value *value = &self->values[1][index];
  DLTensor *tensor = &self->tensors[1][index];
  int spare = 0;
  while (spare < SPARES && value->spares[spare] && Py_REFCNT(value->spares[spare]) > 1) spare++;
  if (spare == SPARES) { /* all in use: the oldest is its user's alone from now on */
    Py_DECREF(value->spares[0]);
    memmove(&value->spares[0], &value->spares[1], sizeof value->spares - sizeof *value->spares);
    memmove(&value->data[0], &value->data[1], sizeof value->data - sizeof *value->data);
    value->spares[spare = SPARES - 1] = NULL;
  }
  if (!value->spares[spare]) {
    PyObject *array = PyObject_CallFunctionObjArgs(self->empty_like, value->like, NULL);
    if (!array) return NULL;
    void *data = address_of(array, value, tensor);
    if (!data || value->bytes > LARGEST_KEPT) {
      tensor->data = data;
      if (data) return array;
      Py_DECREF(array);
      return NULL;
    }
    value->spares[spare] = array;
    value->data[spare] = data;
  }
  tensor->data = value->data[spare];
  return PyObject_CallMethod(value->spares[spare], "view", NULL);
}

/* Whether the lock of the model was free, and now is ours. */
static bool lock(FastCall *self) {
  PyObject *taken = PyObject_Call(self->acquire, self->no_wait, NULL);
  const bool is_taken = taken == Py_True;
  Py_XDECREF(taken);
  return is_taken;
}

static void unlock(FastCall *self) {
  Py_XDECREF(PyObject_Call(self->release, self->no_arguments, NULL));
}

/* With the lock: the results by name; NULL with an exception or not. */
static PyObject *run_locked(FastCall *self, PyObject *const *arrays) {
  if (!self->session) return NULL;
  for (int32_t i = 0; i < self->counts[0]; i++) {
    void *data = address_of(arrays[i], &self->values[0][i], &self->tensors[0][i]);
    if (!data) return NULL;
    self->tensors[0][i].data = data;
  }
  PyObject *results = PyDict_New();
  for (int32_t i = 0; results && i < self->counts[1]; i++) {
    PyObject *result = new_result(self, i);
    if (!result || PyDict_SetItem(results, self->values[1][i].name, result)) Py_CLEAR(results);
    Py_XDECREF(result);
  }
  if (!results) return NULL;
  int32_t status;
  Py_BEGIN_ALLOW_THREADS;
  status = self->run(self->session, self->tensors[0], self->counts[0], self->tensors[1],
                     self->counts[1]);
  Py_END_ALLOW_THREADS;
  if (status) Py_CLEAR(results); /* it happens again in Python, where there are words for it */
  return results;
}

#define MOST_INPUTS 64

static PyObject *run(PyObject *object, PyObject *inputs) {
  FastCall *self = (FastCall *)object;
  PyObject *arrays[MOST_INPUTS];
  const int32_t count = self->counts[0];
  PyObject *results = NULL;
  int32_t held = 0;
  if (PyDict_CheckExact(inputs) && PyDict_Size(inputs) == count) {
    for (; held < count; held++) {
      PyObject *array = PyDict_GetItemWithError(inputs, self->values[0][held].name);
      if (!array || (PyObject *)Py_TYPE(array) != self->array_type) break;
      arrays[held] = Py_NewRef(array); /* another thread may change the dict meanwhile */
    }
    if (held == count && lock(self)) {
      results = run_locked(self, arrays);
      PyObject *type, *error, *trace;
      PyErr_Fetch(&type, &error, &trace);
      unlock(self);
      PyErr_Restore(type, error, trace);
    }
    while (held) Py_DECREF(arrays[--held]);
  }
  if (results) return results;
  PyErr_Clear();
  Py_RETURN_NONE;
}

/* From a tuple of (name, array like it): one side's values. */
static int fill(FastCall *self, int side, PyObject *pairs, int64_t **sizes) {
  for (int32_t i = 0; i < self->counts[side]; i++) {
    Value *value = &self->values[side][i];
    DLTensor *tensor = &self->tensors[side][i];
    PyObject *pair = PyTuple_GetItem(pairs, i);
    if (!pair || !PyArg_ParseTuple(pair, "UO", &value->name, &value->like)) return -1;
    Py_INCREF(value->name);
    Py_INCREF(value->like);
    Py_buffer view;
    if (PyObject_GetBuffer(value->like, &view, PyBUF_STRIDES | PyBUF_FORMAT)) return -1;
    value->itemsize = view.itemsize;
    value->bytes = view.itemsize;
    const bool fits = view.format && strlen(view.format) < sizeof value->format;
    if (fits) strcpy(value->format, view.format);
    tensor->ndim = view.ndim;
    tensor->shape = *sizes;
    for (int axis = 0; axis < view.ndim; axis++) {
      value->bytes *= view.shape[axis];
      *(*sizes)++ = view.shape[axis];
    }
    PyBuffer_Release(&view);
    if (!fits) {
      PyErr_SetString(PyExc_TypeError, "an element type that the buffer protocol can't name");
      return -1;
    }
  }
  return 0;
}

static int initialize(PyObject *object, PyObject *arguments, PyObject *keywords) {
  static char *names[] = {"run", "session", "inputs", "outputs", "types", "array", "empty_like",
                          "acquire", "release", NULL};
  FastCall *self = (FastCall *)object;
  PyObject *address, *session, *pairs[2], *array, *empty, *acquire, *release;
  Py_buffer types;
  if (self->run) {
    PyErr_SetString(PyExc_TypeError, "a FastCall is initialized once");
    return -1;
  }
  if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OOO!O!y*OOOO", names, &address, &session,
                                   &PyTuple_Type, &pairs[0], &PyTuple_Type, &pairs[1], &types,
                                   &array, &empty, &acquire, &release))
    return -1;
  Py_ssize_t count = 0, ranks = 0;
  int failed = 0;
  for (int side = 0; side < 2; side++) {
    self->counts[side] = (int32_t)PyTuple_Size(pairs[side]);
    count += self->counts[side];
    self->values[side] = PyMem_Calloc((size_t)self->counts[side] + 1, sizeof(Value));
    self->tensors[side] = PyMem_Calloc((size_t)self->counts[side] + 1, sizeof(DLTensor));
    failed |= !self->values[side] || !self->tensors[side];
    for (int32_t i = 0; !failed && i < self->counts[side]; i++) {
      PyObject *pair = PyTuple_GetItem(pairs[side], i);
      PyObject *like = pair && PyTuple_Check(pair) ? PyTuple_GetItem(pair, 1) : NULL;
      Py_buffer view;
      failed |= !like || PyObject_GetBuffer(like, &view, PyBUF_STRIDES);
      if (failed) break;
      ranks += view.ndim;
      PyBuffer_Release(&view);
    }
  }
  self->sizes = PyMem_Calloc((size_t)ranks + 1, sizeof(int64_t));
  if (!failed && (self->counts[0] > MOST_INPUTS || !self->sizes ||
                  types.len != count * (Py_ssize_t)sizeof(DLDataType))) {
    PyErr_SetString(PyExc_ValueError, "too many inputs, or types that are not theirs");
    failed = 1;
  }
  int64_t *sizes = self->sizes;
  for (int side = 0; !failed && side < 2; side++) failed = fill(self, side, pairs[side], &sizes);
  for (Py_ssize_t i = 0; !failed && i < count; i++) {
    const int side = i >= self->counts[0];
    DLTensor *tensor = &self->tensors[side][i - (side ? self->counts[0] : 0)];
    memcpy(&tensor->dtype, (const char *)types.buf + i * (Py_ssize_t)sizeof(DLDataType),
           sizeof(DLDataType));
    tensor->device.device_type = kDLCPU;
  }
  PyBuffer_Release(&types);
  if (failed) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "expected pairs of a name and an array");
    return -1;
  }
  self->array_type = Py_NewRef(array);
  self->empty_like = Py_NewRef(empty);
  self->acquire = Py_NewRef(acquire);
  self->release = Py_NewRef(release);
  self->no_wait = Py_BuildValue("(O)", Py_False);
  self->no_arguments = PyTuple_New(0);
  self->run = (Run)PyLong_AsVoidPtr(address);
  self->session = PyLong_AsVoidPtr(session);
  return PyErr_Occurred() || !self->no_wait || !self->no_arguments ? -1 : 0;
}

static PyObject *close_(PyObject *object, PyObject *unused) {
  (void)unused;
  ((FastCall *)object)->session = NULL;
  Py_RETURN_NONE;
}

static void deallocate(PyObject *object) {
  FastCall *self = (FastCall *)object;
  PyTypeObject *type = Py_TYPE(object);
  for (int side = 0; side < 2; side++) {
    for (int32_t i = 0; self->values[side] && i < self->counts[side]; i++) {
      Value *value = &self->values[side][i];
      Py_XDECREF(value->name);
      Py_XDECREF(value->like);
      for (int spare = 0; spare < SPARES; spare++) Py_XDECREF(value->spares[spare]);
    }
    PyMem_Free(self->values[side]);
    PyMem_Free(self->tensors[side]);
  }
  PyMem_Free(self->sizes);
  PyObject *held[] = {self->array_type, self->empty_like, self->acquire,
                      self->release,    self->no_wait,    self->no_arguments};
  for (size_t i = 0; i < sizeof held / sizeof *held; i++) Py_XDECREF(held[i]);
  freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
  release(object);
  Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"run", run, METH_O, "The results by name; None where the inputs are not like those before."},
    {"close", close_, METH_NOARGS, "Never touch the session again; with the model's lock."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "A call of one session with one set of types and shapes."},
    {Py_tp_init, initialize},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, deallocate},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "athanor.runtime._fast_call.FastCall",
    .basicsize = sizeof(FastCall),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

static int execute(PyObject *module) {
  PyObject *type = PyType_FromSpec(&spec);
  const int failed = !type || PyModule_AddObjectRef(module, "FastCall", type);
  Py_XDECREF(type);
  return failed ? -1 : 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, execute}, {0, NULL}};
static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "_fast_call", .m_slots = module_slots};

PyMODINIT_FUNC PyInit__fast_call(void) { return PyModuleDef_Init(&module); }
