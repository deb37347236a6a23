# The image that cluster-kuberay.yaml runs: this folder and what it needs, CUDA's libraries included.
FROM python:3.12-slim
# KubeRay asks with wget whether a node is well.
RUN apt-get update && apt-get install -y --no-install-recommends git wget \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /two-stream-study
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt --editable .
