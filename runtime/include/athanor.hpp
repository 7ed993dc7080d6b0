// Athanor's C API for C++17: closes by itself, throws athanor::Error, nothing else added.
//
// Threads and ownership are as athanor.h says: a Model may be shared by all threads, a Session
// serves one call at a time, and the tensors that `run` returns without a buffer of yours are valid
// until the session's next call.
//
//   athanor::Model model("m.so");
//   athanor::Session session(model, {.threads = 1});        // C++20; or set the fields
//   std::vector<float> image(3 * 224 * 224);
//   auto outputs = session.run({athanor::Tensor(image.data(), {1, 3, 224, 224})});
//   const float *scores = outputs[0].data<float>();
#ifndef ATHANOR_HPP_
#define ATHANOR_HPP_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "athanor.h"

namespace athanor {

// A call that failed; what() is the library's sentence.
class Error : public std::runtime_error {
 public:
  Error(AthanorStatus code, const std::string &what) : std::runtime_error(what), code_(code) {}
  AthanorStatus status() const { return code_; }

 private:
  AthanorStatus code_;
};

inline void check(AthanorStatus status) {
  if (status != ATHANOR_OK) throw Error(status, athanor_last_error());
}

// The element type of a C++ type. Types that C++ does not have (bfloat16, float8): give Tensor a
// DLDataType.
template <typename T>
constexpr DLDataType data_type() {
  constexpr bool is_string = std::is_same_v<T, const char *>;
  static_assert(std::is_arithmetic_v<T> || is_string,
                "give Tensor a DLDataType for this element type");
  const auto code = std::is_same_v<T, bool>       ? kDLBool
                    : is_string                   ? kDLOpaqueHandle
                    : std::is_floating_point_v<T> ? kDLFloat
                    : std::is_signed_v<T>         ? kDLInt
                                                  : kDLUInt;
  return {static_cast<uint8_t>(code), sizeof(T) * 8, 1};
}

// A dense, row-major tensor in memory that belongs to someone else.
class Tensor {
 public:
  // An output whose buffer the session shall provide.
  Tensor() = default;
  template <typename T>
  Tensor(T *data, std::vector<int64_t> shape)
      : Tensor(const_cast<std::remove_const_t<T> *>(data), data_type<std::remove_const_t<T>>(),
               std::move(shape)) {}
  Tensor(void *data, DLDataType dtype, std::vector<int64_t> shape)
      : data_(data), dtype_(dtype), shape_(std::move(shape)) {}
  explicit Tensor(const DLTensor &tensor)
      : Tensor(tensor.data, tensor.dtype, {tensor.shape, tensor.shape + tensor.ndim}) {}

  const std::vector<int64_t> &shape() const { return shape_; }
  DLDataType dtype() const { return dtype_; }
  void *data() const { return data_; }
  // Number of elements.
  int64_t size() const {
    int64_t count = 1;
    for (int64_t dim : shape_) count *= dim;
    return count;
  }
  // The elements. Throws Error where T is not their type.
  template <typename T>
  T *data() const {
    const DLDataType wanted = data_type<std::remove_const_t<T>>();
    if (wanted.code != dtype_.code || wanted.bits != dtype_.bits || dtype_.lanes != 1)
      throw Error(ATHANOR_ERROR_ARGUMENT, "the tensor's elements are of another type");
    return static_cast<T *>(data_);
  }
  // Points into this object.
  DLTensor dlpack() {
    DLTensor tensor{};
    tensor.data = data_;
    tensor.device.device_type = kDLCPU;
    tensor.ndim = static_cast<int32_t>(shape_.size());
    tensor.dtype = dtype_;
    tensor.shape = shape_.data();
    return tensor;
  }

 private:
  void *data_ = nullptr;
  DLDataType dtype_{};
  std::vector<int64_t> shape_;
};

class Model {
 public:
  explicit Model(const std::string &path, AthanorVerify verify = ATHANOR_VERIFY_DEFAULT)
      : Model(path, 0, verify) {}
  // A model of which only metadata() works; none of its code is loaded.
  static Model inspect(const std::string &path, AthanorVerify verify = ATHANOR_VERIFY_DEFAULT) {
    return Model(path, ATHANOR_OPEN_INSPECT_ONLY, verify);
  }

  // JSON. Throws Error.
  std::string metadata() const {
    const char *text = athanor_metadata_json(model_.get());
    if (!text) throw Error(ATHANOR_ERROR_MEMORY, athanor_last_error());
    return text;
  }
  int32_t num_inputs() const { return athanor_num_inputs(model_.get()); }
  int32_t num_outputs() const { return athanor_num_outputs(model_.get()); }
  // index: 0 to the number - 1. Throws std::out_of_range.
  const AthanorTensorSpec &input(int32_t index) const {
    return existing(athanor_input(model_.get(), index));
  }
  const AthanorTensorSpec &output(int32_t index) const {
    return existing(athanor_output(model_.get(), index));
  }
  AthanorModel *get() const { return model_.get(); }

 private:
  Model(const std::string &path, uint32_t flags, AthanorVerify verify) {
    AthanorModel *model = nullptr;
    const AthanorOpenOptions options{sizeof(AthanorOpenOptions), flags, verify};
    check(athanor_open(path.c_str(), &options, &model));
    model_.reset(model);
  }
  static const AthanorTensorSpec &existing(const AthanorTensorSpec *spec) {
    if (!spec) throw std::out_of_range("the model has no such input or output");
    return *spec;
  }
  struct Close {
    void operator()(AthanorModel *model) const { athanor_close(model); }
  };
  std::unique_ptr<AthanorModel, Close> model_;
};

struct Options {
  int32_t threads = 0;  // 0: every core that the process may use
  int32_t spin_us = 0;  // 0: the default; negative: idle workers sleep at once
  AthanorParallelFor parallel_for = nullptr;
  void *parallel_for_user = nullptr;
  int32_t device = 0;      // of a model for a GPU
  void *stream = nullptr;  // of that device; null: one of the session's own
  uint32_t flags = 0;      // ATHANOR_SESSION_*
};

class Session {
 public:
  explicit Session(const Model &model, const Options &options = {})
      : outputs_(model.num_outputs()) {
    AthanorSession *session = nullptr;
    const AthanorSessionOptions given{sizeof(AthanorSessionOptions), options.threads,
                                      options.spin_us, options.parallel_for,
                                      options.parallel_for_user, options.device, options.flags,
                                      options.stream};
    check(athanor_session_create(model.get(), &given, &session));
    session_.reset(session);
  }

  // Shapes and types of the outputs for inputs of these shapes; -1: only the run can tell.
  std::vector<Tensor> output_shapes(std::vector<Tensor> inputs) {
    std::vector<DLTensor> in = lend(inputs);
    check(athanor_session_output_shapes(session_.get(), in.data(), count(in), outputs_.data(),
                                        count(outputs_)));
    return {outputs_.begin(), outputs_.end()};
  }

  // Runs; the results are in memory of the session.
  std::vector<Tensor> run(std::vector<Tensor> inputs) {
    return run(std::move(inputs), std::vector<Tensor>(outputs_.size()));
  }
  // Runs into the given buffers; a default-constructed Tensor stands for one of the session.
  std::vector<Tensor> run(std::vector<Tensor> inputs, std::vector<Tensor> outputs) {
    std::vector<DLTensor> in = lend(inputs), out = lend(outputs);
    check(athanor_session_run(session_.get(), in.data(), count(in), out.data(), count(out)));
    std::vector<Tensor> results;
    for (const DLTensor &tensor : out) results.emplace_back(tensor);
    return results;
  }
  AthanorSession *get() const { return session_.get(); }

 private:
  static std::vector<DLTensor> lend(std::vector<Tensor> &tensors) {
    std::vector<DLTensor> lent;
    for (Tensor &tensor : tensors) lent.push_back(tensor.dlpack());
    return lent;
  }
  static int32_t count(const std::vector<DLTensor> &tensors) {
    return static_cast<int32_t>(tensors.size());
  }
  struct Close {
    void operator()(AthanorSession *session) const { athanor_session_close(session); }
  };
  std::unique_ptr<AthanorSession, Close> session_;
  std::vector<DLTensor> outputs_;
};

}  // namespace athanor
#endif  // ATHANOR_HPP_
