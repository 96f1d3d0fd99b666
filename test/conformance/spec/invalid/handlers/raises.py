raise RuntimeError("the model file is not there")
