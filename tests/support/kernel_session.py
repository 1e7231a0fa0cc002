"""What tests run by an interpreter that has jupyter_client, as any user: a kernel, and what its cells say.

Put before a test's own code: this file is read by people who cannot read the checkout. Imports nothing of the tests.
"""

import os
import queue
import time

from jupyter_client.manager import KernelManager


class Session:
    """A kernel by its name, as a notebook server starts it; use it as a context manager."""

    def __init__(self, name, patience=60.0, log=None, **options):
        self.manager, self.patience, self.options = KernelManager(kernel_name=name), patience, options
        if log is not None:
            self.manager.log = log

    def __enter__(self):
        self.manager.start_kernel(**self.options)
        self.client = self.manager.client()
        self.client.start_channels()
        self.ready()
        return self

    def __exit__(self, *_):
        self.client.stop_channels()
        self.manager.shutdown_kernel()

    def ready(self):
        self.client.wait_for_ready(timeout=self.patience)

    def send(self, code):
        return self.client.execute(code)

    def result(self, message):
        """(status, text of all outputs, the outputs' messages) of what was sent."""
        end = time.monotonic() + self.patience
        text, seen = "", []
        while True:
            try:
                answer = self.client.get_iopub_msg(timeout=max(0.1, end - time.monotonic()))
            except queue.Empty:
                raise TimeoutError(f"no end of {message}: {text}") from None
            if answer["parent_header"].get("msg_id") != message:
                continue
            kind, content = answer["msg_type"], answer["content"]
            if kind == "stream":
                text += content["text"]
            elif kind in ("execute_result", "display_data", "update_display_data"):
                seen.append(content)
                text += content["data"].get("text/plain", "")
            elif kind == "error":
                text += f"{content['ename']}: {content['evalue']}"
            elif kind == "status" and content["execution_state"] == "idle":
                break
        while True:
            reply = self.client.get_shell_msg(timeout=self.patience)
            if reply["parent_header"].get("msg_id") == message:
                return reply["content"]["status"], text, seen

    def run(self, code):
        """The text of what a cell gives."""
        return self.result(self.send(code))[1].strip()

    def wait_for(self, path, seconds=30):
        end = time.monotonic() + seconds
        while not os.path.exists(path):
            if time.monotonic() > end:
                raise TimeoutError(path)
            time.sleep(0.05)
