# ppo37 on a CPU, with videos and plots. Not built by the project's tests.
#
#   docker build --build-arg PIP_EXTRA_INDEX_URL=URL -t ppo37 .
#   docker run --rm -it -v "$PWD/runs:/data/runs" --user "$(id -u):$(id -g)" ppo37 train pong
#
# URL is PyTorch's index for CPUs. Without it pip takes the much larger build with CUDA, which is the
# one for `docker run --gpus all`.
FROM python:3.12-slim

# The compiler is for the native kernels, which are compiled at the first start.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY constraints.txt ./
ARG PIP_EXTRA_INDEX_URL
RUN pip install --no-cache-dir -c constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir -c constraints.txt '.[all]'

# Any user may run the image: /data and the home directory belong to ppo37 and are open to all.
RUN useradd --create-home --home-dir /home/ppo37 ppo37 \
    && mkdir -p /data/runs \
    && chown -R ppo37:ppo37 /data \
    && chmod -R a+rwX /data /home/ppo37
ENV HOME=/home/ppo37
USER ppo37
WORKDIR /data

# Ctrl-C and `docker stop` leave a checkpoint: ppo37 is the first process and reads the signals.
STOPSIGNAL SIGTERM
ENTRYPOINT ["ppo37"]
CMD ["--help"]
