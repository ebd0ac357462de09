"""From weights, an image and a question to an answer, and to what was looked at.

```python
from lxmert_dist.predict import Predictor
predictor = Predictor.load("exports/easy_vqa")
print(predictor("photo.jpg", "what shape is in the image?").answer)
```
"""

from lxmert_dist.predict.answerer import Answerer, load_answerer
from lxmert_dist.predict.predictor import PairAttention, Predictor, Question
from lxmert_dist.predict.split import predict_split
from lxmert_dist.scoring.predictions import Prediction, write_predictions

__all__ = [
    "Answerer",
    "PairAttention",
    "Prediction",
    "Predictor",
    "Question",
    "load_answerer",
    "predict_split",
    "write_predictions",
]
