"""A finished model folder as one GGUF file, and an Ollama Modelfile that prompts it as it was trained."""
