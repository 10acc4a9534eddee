# flatscale on a CPU, for one machine or as the image of a cluster's nodes:
#   docker build -t flatscale . && docker run --rm -v "$PWD/runs:/study/runs" flatscale
FROM python:3.11-slim

WORKDIR /src
COPY . .
RUN pip install --no-cache-dir -c constraints.txt '.[all]'

WORKDIR /study
CMD ["flatscale", "run", "quickstart"]
