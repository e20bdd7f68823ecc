# One image for every part of a deployment: migrations, dashboard, workers.
FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# Nothing here needs root, and an objective is somebody's code.
RUN useradd --create-home --uid 1000 hpo && mkdir /studies /artifacts && chown hpo:hpo /studies /artifacts

WORKDIR /app
# Dependencies first: a change of the source below does not download torch again.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir hpo objectives storage \
 && touch hpo/__init__.py objectives/__init__.py storage/__init__.py \
 && pip install -c constraints.txt . \
 && pip uninstall --yes hpo

COPY hpo hpo
COPY objectives objectives
COPY storage storage
RUN pip install --no-deps .

USER hpo
# Study files and objectives of your own are mounted here.
WORKDIR /studies
ENTRYPOINT ["hpo"]
CMD ["--help"]
