// Run a compiled model from C++17.
//
//   athanor runtime --prefix /opt/athanor
//   export PKG_CONFIG_PATH=/opt/athanor/lib/pkgconfig
//   c++ -std=c++17 4_embed.cpp $(pkg-config --cflags --libs athanor) -o embed
//   LD_LIBRARY_PATH=/opt/athanor/lib ./embed model.so [size of unnamed and symbolic dimensions]
#include <athanor.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <random>
#include <vector>

// Memory for every input: float32 is random, all else is 0.
struct Feed {
  std::vector<std::vector<unsigned char>> buffers;
  std::vector<athanor::Tensor> tensors;

  Feed(const athanor::Model &model, int64_t size) {
    std::mt19937 random(0);
    for (int32_t i = 0; i < model.num_inputs(); i++) {
      const AthanorTensorSpec &spec = model.input(i);
      std::vector<int64_t> shape(spec.shape, spec.shape + spec.ndim);
      std::replace(shape.begin(), shape.end(), int64_t{-1}, size);
      size_t count = 1;
      for (int64_t dim : shape) count *= static_cast<size_t>(dim);
      buffers.emplace_back(count * ((spec.dtype.bits + 7u) / 8u) + 1);
      tensors.emplace_back(buffers.back().data(), spec.dtype, shape);
      if (spec.dtype.code != kDLFloat || spec.dtype.bits != 32) continue;
      float *values = tensors.back().data<float>();
      std::generate_n(values, count,
                      [&] { return std::uniform_real_distribution<float>()(random); });
    }
  }
};

int main(int argc, char **argv) try {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s model.so [size]\n", argv[0]);
    return 2;
  }
  const athanor::Model model(argv[1]);
  athanor::Options options;
  options.threads = 1;
  athanor::Session session(model, options);

  const Feed feed(model, argc > 2 ? std::strtoll(argv[2], nullptr, 10) : 1);
  const std::vector<athanor::Tensor> outputs = session.run(feed.tensors);
  for (size_t i = 0; i < outputs.size(); i++) {
    std::printf("%s: (", model.output(static_cast<int32_t>(i)).name);
    for (size_t axis = 0; axis < outputs[i].shape().size(); axis++)
      std::printf("%s%lld", axis ? ", " : "", static_cast<long long>(outputs[i].shape()[axis]));
    std::printf(")");
    if (outputs[i].dtype().code == kDLFloat && outputs[i].dtype().bits == 32)
      for (int64_t k = 0; k < std::min<int64_t>(4, outputs[i].size()); k++)
        std::printf(" %g", outputs[i].data<float>()[k]);
    std::printf("\n");
  }
  return 0;
} catch (const std::exception &error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
