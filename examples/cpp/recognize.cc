// Recognises the word in a WAV file with a model that `speech-gru export` wrote, on LiteRT's C interface.
//
//   recognize model.tflite clip.wav
//
// prints all labels with their probabilities: first the one that was heard, which is the most probable, or _unknown_
// where that is less probable than the model's threshold for it; then the others, the most probable first.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <numeric>
#include <regex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "litert_c.h"
#include "sha256.h"

namespace {

constexpr int kFormat = 2;  // the latest of speech_gru/artefact.py that this program knows
constexpr int kErrors = 3;  // of LiteRT's log

[[noreturn]] void Fail(const std::string& message) { throw std::runtime_error(message); }

void Check(LiteRtStatus status, const std::string& what) {
  if (status != 0) Fail(what + ": LiteRT's status is " + std::to_string(status));
}

std::string ReadFile(const std::string& path, const std::string& expected) {
  std::ostringstream content;
  content << std::ifstream(path, std::ios::binary).rdbuf();
  if (content.str().empty()) Fail(path + ": can't be read or is empty; expected " + expected);
  return content.str();
}

// What a model says about itself: one line of JSON in the file, as speech_gru/artefact.py writes it. No general JSON is
// read here: of each key the first occurrence counts, it is followed by ": ", and a label's only escapes are \" and \\.
struct Description {
  std::vector<std::string> labels;
  size_t sample_rate;
  size_t clip_samples;
  std::map<std::string, double> thresholds;  // by label; labels that are missing have none
};

size_t After(const std::string& json, const std::string& key, const std::string& path) {
  const size_t found = json.find("\"" + key + "\": ");
  if (found == std::string::npos) Fail(path + ": its description lacks \"" + key + "\"; export it again");
  return found + key.size() + 4;
}

size_t Number(const std::string& json, const std::string& key, const std::string& path) {
  const unsigned long long value = std::strtoull(json.c_str() + After(json, key, path), nullptr, 10);
  if (value == 0) Fail(path + ": expected a number of samples as \"" + key + "\"; export it again");
  return value;
}

// The text in quotes that begins at `at`, which is moved behind it.
std::string Text(const std::string& json, size_t* at) {
  std::string text;
  for (++*at; *at < json.size() && json[*at] != '"'; ++*at) {
    if (json[*at] == '\\') ++*at;
    text += json[*at];
  }
  ++*at;
  return text;
}

std::vector<std::string> Words(const std::string& json, const std::string& key, const std::string& path) {
  std::vector<std::string> words;
  for (size_t at = After(json, key, path) + 1; at < json.size() && json[at] == '"'; at += 2) {  // a comma and a space
    words.push_back(Text(json, &at));
  }
  if (words.empty()) Fail(path + ": expected a list of words as \"" + key + "\"; export it again");
  return words;
}

std::map<std::string, double> Thresholds(const std::string& json, const std::string& path) {
  std::map<std::string, double> thresholds;
  if (json.find("\"thresholds\": ") == std::string::npos) return thresholds;
  for (size_t at = After(json, "thresholds", path) + 1; at < json.size() && json[at] == '"'; at += 2) {
    const std::string label = Text(json, &at);
    char* end;
    thresholds[label] = std::strtod(json.c_str() + std::min(at + 2, json.size()), &end);
    at = end - json.c_str();
  }
  return thresholds;
}

// LiteRT follows the offsets in a damaged file wherever they lead: the digest is checked before it sees the model.
Description Describe(const std::string& model, const std::string& path) {
  if (model.size() < 8 || model.compare(4, 4, "TFL3") != 0) {
    Fail(path + ": not a TFLite file; expected one that `speech-gru export` wrote");
  }
  std::smatch found;  // the beginning is the same in all formats
  static const std::regex kBeginning("\\{\"speech_gru\": (\\d{1,4}), \"sha256\": \"([0-9a-f]{64})\", ");
  if (!std::regex_search(model, found, kBeginning)) {
    Fail(path + ": a TFLite file without speech_gru's description: of another program, or cut off; expected one that " +
         "`speech-gru export` wrote");
  }
  if (Sha256(std::string(model).replace(found.position(2), 64, 64, '0')) != found[2]) {
    Fail(path + ": the file was changed or cut off after it was exported; export it again");
  }
  if (std::stoi(found[1]) > kFormat) {
    Fail(path + ": format " + found[1].str() + ", of a later speech_gru; this program reads up to " +
         std::to_string(kFormat) + ": update it");
  }
  const size_t line = found.position(0);
  const std::string json = model.substr(line, model.find('\n', line) - line);
  for (const std::string other : {"stream", "step"}) {
    if (json.find("\"kind\": \"" + other + "\"") != std::string::npos) {
      Fail(path + ": a model of kind \"" + other + "\"; expected one for whole clips");
    }
  }
  return {Words(json, "labels", path), Number(json, "sample_rate", path), Number(json, "clip_samples", path),
          Thresholds(json, path)};
}

// Mono samples in [-1, 1) of a WAV file of 16-bit PCM. Assumes a little-endian processor, as WAV is little-endian.
std::vector<float> ReadWav(const std::string& path, size_t sample_rate) {
  const std::string file = ReadFile(path, "a WAV file");
  if (file.size() < 12 || file.compare(0, 4, "RIFF") != 0 || file.compare(8, 4, "WAVE") != 0) {
    Fail(path + ": not a WAV file; convert it to 16-bit mono WAV");
  }
  const auto number = [&file](size_t at, size_t bytes) {
    uint32_t value = 0;
    std::memcpy(&value, file.data() + at, bytes);
    return value;
  };
  bool described = false;
  for (size_t at = 12; at + 8 <= file.size();) {
    const std::string chunk = file.substr(at, 4);
    const size_t size = number(at + 4, 4);
    at += 8;
    if (size > file.size() - at) {
      Fail(path + ": truncated: " + std::to_string(size) + " bytes expected, " + std::to_string(file.size() - at) +
           " are there");
    }
    if (chunk == "fmt " && size >= 16) {
      const uint32_t format = number(at, 2), channels = number(at + 2, 2), rate = number(at + 4, 4),
                     bits = number(at + 14, 2);
      const bool pcm = format == 1 || (format == 0xFFFE && size >= 26 && number(at + 24, 2) == 1);
      if (!pcm || channels != 1 || bits != 16 || rate != sample_rate) {
        Fail(path + ": expected 16-bit PCM, 1 channel, " + std::to_string(sample_rate) + " Hz; got " +
             std::to_string(bits) + " bits" + (pcm ? "" : " that aren't PCM") + ", " + std::to_string(channels) +
             " channel(s), " + std::to_string(rate) + " Hz; convert it");
      }
      described = true;
    } else if (chunk == "data" && described) {
      std::vector<int16_t> pcm(size / 2);
      std::memcpy(pcm.data(), file.data() + at, pcm.size() * 2);
      if (pcm.empty()) Fail(path + ": empty: it holds no samples");
      std::vector<float> samples(pcm.size());
      std::transform(pcm.begin(), pcm.end(), samples.begin(), [](int16_t value) { return value / 32768.0f; });
      return samples;
    }
    at += size + size % 2;
  }
  Fail(path + ": truncated: it ends before the samples");
}

// As in training: of a longer clip the loudest stretch (the first of equals), a shorter one is padded with silence on
// both sides, where the end gets the odd sample.
std::vector<float> FitLength(const std::vector<float>& samples, size_t length) {
  std::vector<float> clip(length, 0.0f);
  if (samples.size() <= length) {
    std::copy(samples.begin(), samples.end(), clip.begin() + (length - samples.size()) / 2);
    return clip;
  }
  std::vector<double> energy(samples.size() + 1, 0.0);
  for (size_t i = 0; i < samples.size(); ++i) energy[i + 1] = energy[i] + double(samples[i]) * double(samples[i]);
  size_t start = 0;
  for (size_t i = 0; i + length <= samples.size(); ++i) {
    if (energy[i + length] - energy[i] > energy[start + length] - energy[start]) start = i;
  }
  std::copy_n(samples.begin() + start, length, clip.begin());
  return clip;
}

template <auto destroy>
struct Destroy {
  template <typename T>
  void operator()(T* object) const {
    destroy(object);
  }
};
template <typename Handle, auto destroy>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy<destroy>>;

// A loaded model. Members are destroyed from the last to the first, as LiteRT needs it.
class Recognizer {
 public:
  explicit Recognizer(const std::string& path)
      : content_(ReadFile(path, "a .tflite file")), description_(Describe(content_, path)) {
    const LiteRtEnvOption only_cpu_and_errors[] = {
        {kLiteRtEnvOptionTagAutoRegisterAccelerators, {kLiteRtAnyTypeInt, kLiteRtHwAcceleratorCpu}},
        {kLiteRtEnvOptionTagMinLoggerSeverity, {kLiteRtAnyTypeInt, kErrors}},
    };
    LiteRtEnvironment environment;
    Check(LiteRtCreateEnvironment(2, only_cpu_and_errors, &environment), "create the environment");
    environment_.reset(environment);
    LiteRtModel model;
    Check(LiteRtCreateModelFromBuffer(environment, content_.data(), content_.size(), &model), path + ": load it");
    model_.reset(model);

    LiteRtOptions options;
    Check(LiteRtCreateOptions(&options), "create the options");
    const Owned<LiteRtOptions, LiteRtDestroyOptions> owned(options);
    Check(LiteRtSetOptionsHardwareAccelerators(options, kLiteRtHwAcceleratorCpu), "choose the processor");
    LiteRtCompiledModel compiled;
    Check(LiteRtCreateCompiledModel(environment, model, options, &compiled), path + ": can't be compiled");
    compiled_.reset(compiled);

    LiteRtSignature signature;
    LiteRtTensor tensor;
    LiteRtTensorBufferRequirements needs;
    size_t outputs;
    Check(LiteRtGetModelSignature(model, 0, &signature), path + ": find the graph");
    Check(LiteRtGetSignatureInputTensorByIndex(signature, 0, &tensor), path + ": find the input");
    Check(LiteRtGetCompiledModelInputBufferRequirements(compiled, 0, 0, &needs), path + ": size the input");
    input_ = Allocate(tensor, needs, description_.clip_samples, path);
    Check(LiteRtGetNumSignatureOutputs(signature, &outputs), path + ": count the outputs");
    for (size_t i = 0; i < outputs; ++i) {  // the first holds the probabilities; LiteRT wants room for all
      Check(LiteRtGetSignatureOutputTensorByIndex(signature, i, &tensor), path + ": find the outputs");
      Check(LiteRtGetCompiledModelOutputBufferRequirements(compiled, 0, i, &needs), path + ": size the outputs");
      outputs_.push_back(Allocate(tensor, needs, description_.labels.size(), path));
    }
  }

  const Description& description() const { return description_; }

  // One probability for each label, of samples in [-1, 1].
  std::vector<float> Probabilities(const std::vector<float>& samples) {
    const std::vector<float> clip = FitLength(samples, description_.clip_samples);
    void* memory;
    Check(LiteRtLockTensorBuffer(input_.get(), &memory, kLiteRtTensorBufferLockModeWrite), "open the input");
    std::memcpy(memory, clip.data(), clip.size() * sizeof(float));
    Check(LiteRtUnlockTensorBuffer(input_.get()), "close the input");

    LiteRtTensorBuffer input = input_.get();
    std::vector<LiteRtTensorBuffer> outputs;
    for (const auto& output : outputs_) outputs.push_back(output.get());
    Check(LiteRtRunCompiledModel(compiled_.get(), 0, 1, &input, outputs.size(), outputs.data()), "run the model");

    std::vector<float> probabilities(description_.labels.size());
    Check(LiteRtLockTensorBuffer(outputs[0], &memory, kLiteRtTensorBufferLockModeRead), "open the output");
    std::memcpy(probabilities.data(), memory, probabilities.size() * sizeof(float));
    Check(LiteRtUnlockTensorBuffer(outputs[0]), "close the output");
    return probabilities;
  }

 private:
  using Buffer = Owned<LiteRtTensorBuffer, LiteRtDestroyTensorBuffer>;

  Buffer Allocate(LiteRtTensor tensor, LiteRtTensorBufferRequirements needs, size_t values, const std::string& path) {
    LiteRtRankedTensorType type;
    LiteRtTensorBuffer buffer;
    size_t bytes;
    Check(LiteRtGetRankedTensorType(tensor, &type), path + ": find a tensor's shape");
    Check(LiteRtCreateManagedTensorBufferFromRequirements(environment_.get(), &type, needs, &buffer), "find memory");
    Buffer owned(buffer);
    Check(LiteRtGetTensorBufferPackedSize(buffer, &bytes), path + ": find a tensor's size");
    if (bytes != values * sizeof(float)) Fail(path + ": its graph doesn't fit its description; export it again");
    return owned;
  }

  const std::string content_;
  const Description description_;
  Owned<LiteRtEnvironment, LiteRtDestroyEnvironment> environment_;
  Owned<LiteRtModel, LiteRtDestroyModel> model_;
  Owned<LiteRtCompiledModel, LiteRtDestroyCompiledModel> compiled_;
  Buffer input_;
  std::vector<Buffer> outputs_;
};

// The labels' indices in the order to print them.
std::vector<size_t> Ranking(const Description& description, const std::vector<float>& probabilities) {
  const auto& labels = description.labels;
  std::vector<size_t> order(labels.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return probabilities[a] > probabilities[b]; });
  const auto threshold = description.thresholds.find(labels[order[0]]);
  if (threshold != description.thresholds.end() && probabilities[order[0]] < threshold->second) {
    const auto unknown = std::find_if(order.begin(), order.end(), [&](size_t i) { return labels[i] == "_unknown_"; });
    if (unknown != order.end()) std::rotate(order.begin(), unknown, unknown + 1);
  }
  return order;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) Fail("expected a model and a WAV file: recognize model.tflite clip.wav");
  Recognizer recognizer(argv[1]);
  const auto& labels = recognizer.description().labels;
  const auto probabilities = recognizer.Probabilities(ReadWav(argv[2], recognizer.description().sample_rate));

  for (const size_t i : Ranking(recognizer.description(), probabilities)) {
    std::printf("%s %.6f\n", labels[i].c_str(), probabilities[i]);
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "recognize: %s\n", error.what());
  return 2;
}
