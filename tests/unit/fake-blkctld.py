#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A stand-in for blkctld that plays back answers, for tests of blkctl.

usage: fake-blkctld.py SOCKET ANSWERS LOG

ANSWERS: JSON object; for a command's name the list of answers to its calls, in
order, the last one again and again. An answer is {"return": ...},
{"error": ...}, or a list that begins with events and ends with one of these;
"hang up" closes the connection. LOG gets a line of JSON for each command.
"""
import json
import os
import socket
import sys

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0},
                                "package": "fake"}, "capabilities": []}}


class HangUp(Exception):
    pass


def answer(answers, request, send):
    todo = answers.get(request["execute"], [{"return": {}}])
    chosen = todo.pop(0) if len(todo) > 1 else todo[0]
    for msg in chosen if isinstance(chosen, list) else [chosen]:
        if msg == "hang up":
            raise HangUp
        if "event" not in msg:
            msg = {**msg, "id": request.get("id")}
        send(msg)


def serve(conn, answers, log):
    with conn, conn.makefile("rw", encoding="utf-8") as stream:
        def send(msg):
            stream.write(json.dumps(msg) + "\r\n")
            stream.flush()

        try:
            send(GREETING)
            for line in stream:
                request = json.loads(line)
                if request["execute"] != "qmp_capabilities":
                    print(json.dumps([request["execute"],
                                      request.get("arguments")]),
                          file=log, flush=True)
                answer(answers, request, send)
        except (HangUp, BrokenPipeError, ConnectionResetError):
            pass


def main():
    path, answers, log = sys.argv[1:4]
    with open(answers, encoding="utf-8") as f:
        answers = json.load(f)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path + ".new")
    server.listen()
    os.rename(path + ".new", path)
    with open(log, "w", encoding="utf-8") as log:
        while True:
            serve(server.accept()[0], answers, log)


main()
