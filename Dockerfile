# The page on port 7860, with the weights inside. For the CPU, or for CUDA, which is what PyPI's own PyTorch is for:
#   docker build -t iris .
#   docker run --rm -p 127.0.0.1:7860:7860 iris
#   docker build -t iris-cuda --build-arg TORCH_INDEX=https://pypi.org/simple .
#   docker run --rm -p 127.0.0.1:7860:7860 --gpus all iris-cuda
FROM python:3.12-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements.lock requirements-cuda.lock /locked/
# Everything by its hashes, but for the CPU PyTorch by its version: PyTorch's own index names no hashes to a lock of PyPI.
RUN pip install --no-cache-dir --require-hashes --no-deps -r /locked/requirements.lock \
    && if [ "${TORCH_INDEX}" = https://pypi.org/simple ]; \
    then pip install --no-cache-dir --require-hashes --no-deps -r /locked/requirements-cuda.lock; \
    else pip install --no-cache-dir --no-deps --index-url "${TORCH_INDEX}" \
        $(grep -oE '^torch(vision)?==[0-9.]+' /locked/requirements-cuda.lock); fi
COPY . /source
RUN pip install --no-cache-dir --no-deps --no-build-isolation /source \
    && pip check \
    && useradd --create-home --uid 1000 iris

USER 1000
WORKDIR /home/iris
EXPOSE 7860
# This address answers without the token of `iris serve --token`, too.
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s CMD ["python", "-c", \
    "from urllib.request import urlopen; urlopen('http://127.0.0.1:7860/gradio_api/startup-events', timeout=4)"]
ENTRYPOINT ["iris"]
CMD ["app", "--host", "0.0.0.0", "--no-open-browser"]
