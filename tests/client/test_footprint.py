"""What the client needs to be there."""

from __future__ import annotations

import subprocess
import sys


def test_client_works_with_httpx_and_pydantic_alone() -> None:
    """Where nothing else of what Fovea needs is installed, it can be imported and made."""
    code = (
        "import sys\n"
        "absent = {'numpy', 'PIL', 'rich', 'click', 'fastapi', 'starlette', 'uvicorn', 'tensorflow', 'keras',\n"
        "          'openvino', 'orjson', 'pydantic_settings', 'prometheus_client'}\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in absent:\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from app.client import Client, Unreachable, Retries\n"
        "from pathlib import Path\n"
        "with Client('http://127.0.0.1:1', retries=Retries(attempts=1)) as client:\n"
        "    try:\n"
        "        list(client.predict_many([b'x', Path('missing.png')], batch=1))\n"
        "    except Unreachable as error:\n"
        "        print('made:', type(error).__name__)\n"
        "print('app:', *sorted(name for name in sys.modules if name.startswith('app.') and name.count('.') == 1))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == ["made: Unreachable", "app: app.client app.counting app.errors app.packing"]
