// All operators as one translation unit: TensorFlow's headers take nearly all of the time that compiling takes.
#include "behavior_sequence.cc"
#include "engine_client.cc"
#include "gen_recall.cc"
#include "sparse_rank.cc"
